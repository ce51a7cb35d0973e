#pragma once

#include <cstdint>
#include <span>

#include "bitdial/core/format.h"
#include "bitdial/core/policy.h"
#include "bitdial/core/random.h"
#include "bitdial/kernels/conv2d.h"

/// float32 <-> codes, with the statistics that policies need gathered in the same pass.
namespace bitdial::kernels {

/// The memory order of a dense tensor whose logical order is [outer][channels][inner] (NCHW with inner = H*W; KCRS
/// with inner = R*S): kPlanar is that order, kInterleaved is [outer][inner][channels] (channels_last). It decides which
/// random bits an element gets, and what one sample or output channel (`outer`) is.
enum class MemoryOrder : uint8_t { kPlanar, kInterleaved };

struct TensorShape {
  int64_t outer = 1, channels = 1, inner = 1;
  MemoryOrder order = MemoryOrder::kInterleaved;
  int64_t elements() const { return outer * channels * inner; }
};

/// min and max of the data (kTensor: one entry; otherwise one per outer index). NaN or infinity anywhere makes the
/// entry non-finite; callers check with is_finite.
void measure_range(const float* x, const TensorShape& shape, Granularity granularity, std::span<Range> ranges);

/// Mean over the outer index of each sample's minimum and maximum (SBM).
Range mean_sample_range(const float* x, const TensorShape& shape);

/// sum |x| in float64 over a fixed partition: the same for any thread count.
double abs_sum(const float* x, int64_t count);

/// sum |x^| (nearest rounding, step 2^exponent, asymmetric range of word_length bits), exact integer sum scaled once.
double quantized_abs_sum(const float* x, int64_t count, int word_length, int exponent);

/// codes[i] = clamp(round((x - offset) / scale) + zero_code), rounding and range from `format`. One QuantParams, or
/// one per outer index. `codes` has the container's type. kStochastic draws random_bits(key, logical index).
/// For kFloat32 containers `codes` receives the de-quantised float32 values.
QuantizeStatistics quantize(const float* x, const TensorShape& shape, const Format& format,
                            std::span<const QuantParams> params, RandomKey key, void* codes);

/// x^ = scale * (q - zero_code) + offset.
void dequantize(const void* codes, CodeType type, const TensorShape& shape, std::span<const QuantParams> params,
                float* x);

}  // namespace bitdial::kernels
