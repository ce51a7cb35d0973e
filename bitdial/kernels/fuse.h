#pragma once

#include <cstdint>
#include <span>

#include "bitdial/kernels/conv2d.h"
#include "bitdial/kernels/quantize.h"

/// The passes of a block around its GEMMs: normalise, add, clamp and quantise in one sweep over memory, and
/// the same backwards. Tensors are dense channels_last, float32 or bfloat16 (one type per call); arithmetic
/// is float32, rounded to the tensors' type where a value is stored. Results do not depend on instruction set
/// or thread count.
namespace bitdial::kernels {

/// kGelu: x Phi(x) with the normal distribution's Phi within 2e-7 (Hendrycks and Gimpel 2016, not their tanh
/// form).
enum class Activation : uint8_t { kNone, kRelu, kRelu6, kGelu };

/// Words of a bit mask: one bit per element in memory order.
inline int64_t mask_words(int64_t elements) { return (elements + 15) / 16; }

/// y = activation(scale_a[c] * a + scale_b[c] * b + shift[c]). Null pointers: scales of 1, no shift, no b, no
/// mask.
struct AffineTensor {
  TensorShape shape;  ///< kInterleaved
  OutputType type = OutputType::kFloat32;
  const void* a = nullptr;
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

/// g = mask * (g + other), in place, and its sums over the pixels of each channel: sum[c] of g,
/// product_sum[c] of g * (z - shift[c]); float32 over 32 pixels or so, float64 over a fixed partition. Null
/// pointers: no mask, no other, no z (and no product_sum, shift).
struct GradientSums {
  OutputType type = OutputType::kFloat32;
  int64_t pixels = 0, channels = 0;
  void* g = nullptr;
  const void* other = nullptr;
  const uint16_t* mask = nullptr;
  const void* gelu_input = nullptr;  ///< if given, g is multiplied by GELU's derivative there; without z
  const void* z = nullptr;
  const float* shift = nullptr;
  double* sum = nullptr;
  double* product_sum = nullptr;
};
void gradient_sums(const GradientSums& pass);

struct PoolShape {
  int64_t batch = 1, channels = 1, in_height = 1, in_width = 1;
  int64_t kernel = 2, stride = 2, padding = 0;  ///< kernel * kernel <= 255

  int64_t out_height() const { return (in_height + 2 * padding - kernel) / stride + 1; }
  int64_t out_width() const { return (in_width + 2 * padding - kernel) / stride + 1; }
  int64_t input_elements() const { return batch * in_height * in_width * channels; }
  int64_t output_elements() const { return batch * out_height() * out_width() * channels; }
};

/// What a pool reads: activation(scale[c] * x + shift[c]), never stored. Null pointers: scales of 1, no
/// shift.
struct PoolInput {
  OutputType type = OutputType::kFloat32;
  const void* x = nullptr;
  const float* scale = nullptr;
  const float* shift = nullptr;
  Activation activation = Activation::kNone;  ///< not kGelu
};

/// The place of a window whose gradient goes nowhere: the activation cut off its largest element.
inline constexpr uint8_t kNowhere = 255;

/// y = the largest element of each window, `where` its place in the window (row * kernel + column; the first
/// of equal ones) or kNowhere. NaN is skipped unless a window holds nothing else.
void max_pool(const PoolShape& shape, const PoolInput& input, void* y, uint8_t* where);

/// dx = the sum of the gradients whose maximum an element was, in float32, rounded once; behind a scale, a
/// shift and an activation, the gradient of scale * x + shift.
void max_pool_backward(const PoolShape& shape, OutputType type, const void* dy, const uint8_t* where,
                       void* dx);

/// Images of `pixels` x `channels` elements.
struct AverageShape {
  int64_t batch = 1, pixels = 1, channels = 1;
};

/// y[n, c] = the mean over the pixels of x[n, pixel, c], added up in float32 in their order.
void average_pool(const AverageShape& shape, OutputType type, const void* x, float* y);

/// dx[n, pixel, c] = dy[n, c] / pixels.
void average_pool_backward(const AverageShape& shape, OutputType type, const float* dy, void* dx);

}  // namespace bitdial::kernels
