#pragma once

#include <cstdint>
#include <limits>

#include "bitdial/core/quantizer.h"
#include "bitdial/kernels/bfloat16.h"
#include "bitdial/kernels/conv2d.h"
#include "bitdial/kernels/quantize.h"

/// The inner loops behind quantize.h: one table per instruction set, all with the same bits. Arguments are
/// trusted.
namespace bitdial::kernels {

/// Elements of one call of an inner loop, and of one partial sum: 8 KiB of float32, so a second look at them
/// hits L1.
inline constexpr int64_t kBlock = ComputedTensor::kMostAtOnce;

/// Partial sums of |x| in a block: element i of the block belongs to sum i mod kSumLanes.
inline constexpr int64_t kSumLanes = 16;

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

enum class InputType : uint8_t { kFloat32, kBFloat16 };

/// Contiguous elements under one Quantizer. Element i has the logical index index_base + index_offsets[i].
/// The offsets may be null without stochastic rounding; kSumLanes entries behind the last one are readable.
struct QuantizeBlock {
  const void* x = nullptr;
  void* codes = nullptr;
  int64_t count = 0;  ///< 1 .. kBlock
  RandomKey key;
  uint64_t index_base = 0;
  const uint32_t* index_offsets = nullptr;
};

struct BlockStatistics {
  int64_t saturated = 0;
  int64_t zeros = 0;
  float min = kInfinity;  ///< NaN is skipped
  float max = -kInfinity;
  bool finite = true;  ///< no NaN, no infinity
};

/// Pairs of functions are indexed by InputType. Each merges its statistics into those given.
struct QuantizeKernels {
  /// Vector kernels need a block whose logical indices have the same upper 32 bits; the scalar one does not.
  void (*quantize[2])(const Quantizer& quantizer, Container container, const QuantizeBlock& block,
                      BlockStatistics& statistics);
  /// min, max and finite.
  void (*measure[2])(const void* x, int64_t count, BlockStatistics& statistics);
  /// sum |x| of at most kBlock elements: kSumLanes sums, then join_lanes.
  double (*abs_sum[2])(const void* x, int64_t count);
  /// sum |r| of at most kBlock elements, nearest rounding; steps are powers of two, at most 24 bits in vector
  /// kernels.
  int64_t (*quantized_abs_sum[2])(const Quantizer& quantizer, const void* x, int64_t count);
  void (*dequantize)(const QuantParams& params, CodeType type, const void* codes, int64_t count, float* x);
};

/// Adds kSumLanes sums as a binary tree: i and i + 8, then i and i + 4, ...
double join_lanes(const double* lanes);

namespace scalar {
extern const QuantizeKernels kQuantize;
}
namespace avx2 {
extern const QuantizeKernels kQuantize;
}
namespace avx512vnni {
extern const QuantizeKernels kQuantize;
}

}  // namespace bitdial::kernels
