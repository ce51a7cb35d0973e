#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bitdial/kernels/conv2d.h"
#include "bitdial/kernels/output_pass.h"
#include "bitdial/kernels/quantize.h"

/// The passes of a block around its GEMMs: normalise, add, clamp and quantise in one sweep over memory, and
/// the same backwards. Tensors are dense channels_last, float32 or bfloat16 (one type per call); arithmetic
/// is float32, rounded to the tensors' type where a value is stored. Results do not depend on instruction set
/// or thread count.
namespace bitdial::kernels {

/// kGelu: x Phi(x) with the normal distribution's Phi within 2e-7 (Hendrycks and Gimpel 2016, not their tanh
/// form). kTanh: within 4e-7.
enum class Activation : uint8_t { kNone, kRelu, kRelu6, kGelu, kTanh };

/// Whether the derivative has to be computed from the activation's input: one bit does not tell it.
constexpr bool is_smooth(Activation activation) {
  return activation == Activation::kGelu || activation == Activation::kTanh;
}

/// Words of a bit mask: one bit per element in memory order.
inline int64_t mask_words(int64_t elements) { return (elements + 15) / 16; }

class MaxPoolGradient;
struct SumBlock;

/// y = activation(scale_a[c] * a + scale_b[c] * b + shift[c]). Null pointers: scales of 1, no shift, no b, no
/// mask.
struct AffineTensor {
  TensorShape shape;  ///< kInterleaved
  OutputType type = OutputType::kFloat32;
  const void* a = nullptr;
  const MaxPoolGradient* pooled = nullptr;  ///< in place of a: it is made on the way (pool.h)
  const void* b = nullptr;
  const float* scale_a = nullptr;
  const float* scale_b = nullptr;
  const float* shift = nullptr;
  Activation activation = Activation::kNone;
  uint16_t* mask = nullptr;  ///< receives a bit per element that ReLU or ReLU6 passes unchanged
  void* values = nullptr;    ///< receives y; may be a or b
};

/// Computes y into `values` and returns its range (both members NaN if an element is not finite).
Range compute(const AffineTensor& y);

/// Computes and quantises y in one pass: the codes and statistics of quantize() on the stored values or,
/// where `values` is not given, on y in float32.
QuantizeStatistics compute_and_quantize(const AffineTensor& y, const Format& format,
                                        std::span<const QuantParams> params, RandomKey key, void* codes);
/// The same, and the codes in a second layout.
QuantizeStatistics compute_and_quantize(const AffineTensor& y, const Format& format,
                                        std::span<const QuantParams> params, RandomKey key, void* codes,
                                        const CodePacking& packing);

/// The place of a max pool's window whose gradient goes nowhere: the activation cut off its largest element.
inline constexpr uint8_t kNowhere = 255;

/// g = mask * (g + other), in place, and its sums over the pixels of each channel: sum[c] of g,
/// product_sum[c] of g * (z - shift[c]); float32 over 32 pixels or so, float64 over a fixed partition. Null
/// pointers: no mask, no other, no z (and no product_sum, shift).
struct GradientSums {
  OutputType type = OutputType::kFloat32;
  int64_t pixels = 0, channels = 0;
  void* g = nullptr;
  const void* other = nullptr;
  const uint16_t* mask = nullptr;
  const uint8_t* where = nullptr;             ///< of a max pool: g is 0 at kNowhere
  Activation activation = Activation::kNone;  ///< if smooth, g is multiplied by its derivative; without z
  const void* activation_input = nullptr;     ///< of a smooth one
  const void* z = nullptr;
  const float* shift = nullptr;
  double* sum = nullptr;
  double* product_sum = nullptr;
};
void gradient_sums(const GradientSums& terms);

/// The same behind the convolution that makes g, its Output::pass. g has the bits of gradient_sums; sums are
/// added up over the convolution's partition, which depends on its shape and the instruction set.
class GradientPass final : public OutputPass {
 public:
  explicit GradientPass(const GradientSums& terms);

  int64_t alignment() const override;
  int64_t stretch() const override;
  void run(int64_t index, int64_t first, int64_t last) override;
  /// Behind the convolution: fills in the sums.
  void finish();

 protected:
  void start(int64_t stretches) override;

 private:
  /// One float32 sum per entry of a row covers this many elements.
  int64_t run_elements() const;

  GradientSums terms_;
  void (*add_)(const SumBlock&);
  std::vector<float> shifts_;  ///< a row: they repeat with the channels
  Workspace workspace_;
  int64_t stretches_ = 0;
  double* partial_ = nullptr;  ///< [stretch][sums, products][channel]
};

}  // namespace bitdial::kernels
