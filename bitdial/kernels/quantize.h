#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "bitdial/core/format.h"
#include "bitdial/core/policy.h"
#include "bitdial/core/random.h"
#include "bitdial/kernels/bfloat16.h"
#include "bitdial/kernels/code_packing.h"
#include "bitdial/kernels/conv2d.h"

/// float32 <-> codes, with the statistics that policies need gathered in the same pass.
namespace bitdial::kernels {

/// The memory order of a dense tensor whose logical order is [outer][channels][inner] (NCHW with inner = H*W;
/// KCRS with inner = R*S): kPlanar is that order, kInterleaved is [outer][inner][channels] (channels_last).
/// It decides which random bits an element gets, and what one sample or output channel (`outer`) is.
enum class MemoryOrder : uint8_t { kPlanar, kInterleaved };

struct TensorShape {
  int64_t outer = 1, channels = 1, inner = 1;
  MemoryOrder order = MemoryOrder::kInterleaved;
  int64_t elements() const { return outer * channels * inner; }
};

// Every function that reads data takes float32 or bfloat16; a bfloat16 is the float32 with the same upper
// bits.
//
// Results do not depend on instruction set, thread count, or the denormal setting of the calling thread;
// random bits do not depend on the memory order. Statistics are integers, extremes, or float64 sums over a
// fixed partition: blocks of 2048 elements in memory order, 16 interleaved sums in each, blocks added in
// order.

/// min and max of the data (kTensor: one entry; otherwise one per outer index), -0.0 counted as 0.0. NaN or
/// infinity anywhere makes both members of the entry NaN; callers check with Range::is_finite. No element
/// gives {0, 0}.
void measure_range(const float* x, const TensorShape& shape, Granularity granularity,
                   std::span<Range> ranges);
void measure_range(const BFloat16* x, const TensorShape& shape, Granularity granularity,
                   std::span<Range> ranges);

/// Mean over the outer index of each sample's minimum and maximum (SBM), float64 sums rounded once.
Range mean_sample_range(const float* x, const TensorShape& shape);
Range mean_sample_range(const BFloat16* x, const TensorShape& shape);

/// sum |x| in float64 over the fixed partition.
double abs_sum(const float* x, int64_t count);
double abs_sum(const BFloat16* x, int64_t count);

/// sum |x^| (nearest rounding of x / step, codes -2^(n-1) .. 2^(n-1)-1 of n = word_length bits), exact
/// integer sum scaled once.
double quantized_abs_sum(const float* x, int64_t count, int word_length, float step);
double quantized_abs_sum(const BFloat16* x, int64_t count, int word_length, float step);

/// A grid without offset whose absolute mass sum |x^| is wanted, as in quantized_abs_sum.
struct Grid {
  int word_length = 8;
  float step = 1.0F;
};
inline constexpr size_t kMaxGrids = 3;

/// The sums of APT's error measure: abs_sum and one quantized_abs_sum per grid, the same bits as one by one.
struct AbsSums {
  double data = 0.0;
  std::array<double, kMaxGrids> grids{};
};

/// All of these sums in one pass over memory. At most kMaxGrids grids.
AbsSums abs_sums(const float* x, int64_t count, std::span<const Grid> grids);
AbsSums abs_sums(const BFloat16* x, int64_t count, std::span<const Grid> grids);

/// codes[i] = clamp(round((x - offset) / scale) + zero_code), bit by bit as core/quantizer.h defines it. One
/// QuantParams, or one per outer index. `codes` has the container's type. kStochastic draws
/// random_bits(key, logical index). For kFloat32 containers `codes` receives the de-quantised float32 values.
/// Saturated are elements more than half a step outside the representable range. NaN gets the lowest code and
/// shows in the statistics' range, which is NaN then.
QuantizeStatistics quantize(const float* x, const TensorShape& shape, const Format& format,
                            std::span<const QuantParams> params, RandomKey key, void* codes);
QuantizeStatistics quantize(const BFloat16* x, const TensorShape& shape, const Format& format,
                            std::span<const QuantParams> params, RandomKey key, void* codes);

/// A tensor that is made block by block while it is read, so that it need not exist.
struct ComputedTensor {
  static constexpr int64_t kMostAtOnce = 2048;
  OutputType type = OutputType::kFloat32;
  /// Writes elements begin .. end - 1 (memory order) to `to`; begin is a multiple of 16, end - begin at most
  /// kMostAtOnce. Called once per block, from several threads.
  std::function<void(int64_t begin, int64_t end, void* to)> compute;
  void* values = nullptr;  ///< keeps the elements, if given
};
QuantizeStatistics quantize(const ComputedTensor& x, const TensorShape& shape, const Format& format,
                            std::span<const QuantParams> params, RandomKey key, void* codes);
/// The same, and the codes in a second layout.
QuantizeStatistics quantize(const ComputedTensor& x, const TensorShape& shape, const Format& format,
                            std::span<const QuantParams> params, RandomKey key, void* codes,
                            const CodePacking& packing);
/// The range of all elements.
Range measure_range(const ComputedTensor& x, int64_t count);

/// quantize and abs_sums in one pass over memory: an update step of APT after its absmax pass.
QuantizeStatistics quantize_with_abs_sums(const float* x, const TensorShape& shape, const Format& format,
                                          std::span<const QuantParams> params, RandomKey key, void* codes,
                                          std::span<const Grid> grids, AbsSums& sums);
QuantizeStatistics quantize_with_abs_sums(const BFloat16* x, const TensorShape& shape, const Format& format,
                                          std::span<const QuantParams> params, RandomKey key, void* codes,
                                          std::span<const Grid> grids, AbsSums& sums);

/// x^ = scale * (q - zero_code) + offset.
void dequantize(const void* codes, CodeType type, const TensorShape& shape,
                std::span<const QuantParams> params, float* x);

}  // namespace bitdial::kernels
