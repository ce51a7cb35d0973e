// The reference of the quantise kernels: core/quantizer.h applied to one element after the other. The vector
// kernels are tested bit-exactly against this file, which shares no code with them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "bitdial/kernels/quantize_kernels.h"

namespace bitdial::kernels::scalar {
namespace {

float value(float x) { return x; }
float value(BFloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

void measure_value(float x, BlockStatistics& statistics) {
  if (x < statistics.min) statistics.min = x;
  if (x > statistics.max) statistics.max = x;
  if (!std::isfinite(x)) statistics.finite = false;
}

template <class Input>
void measure(const void* data, int64_t count, BlockStatistics& statistics) {
  const auto* x = static_cast<const Input*>(data);
  for (int64_t i = 0; i < count; ++i) measure_value(value(x[i]), statistics);
}

template <class Input, class Code>
void quantize_as(const Quantizer& quantizer, const QuantizeBlock& block, BlockStatistics& statistics) {
  const auto* x = static_cast<const Input*>(block.x);
  auto* codes = static_cast<Code*>(block.codes);
  for (int64_t i = 0; i < block.count; ++i) {
    const float element = value(x[i]);
    measure_value(element, statistics);
    const uint32_t bits =
        quantizer.stochastic ? random_bits(block.key, block.index_base + block.index_offsets[i]) : 0;
    const float r = quantize_value(quantizer, element, bits);
    statistics.saturated += is_saturated(quantizer, steps(quantizer, element));
    statistics.zeros += dequantize_value(quantizer, r) == 0.0F;
    if constexpr (std::is_same_v<Code, float>) {
      codes[i] = dequantize_value(quantizer, r);
    } else {
      codes[i] = static_cast<Code>(static_cast<int32_t>(r) + quantizer.zero_code);
    }
  }
}

template <class Input>
void quantize(const Quantizer& quantizer, Container container, const QuantizeBlock& block,
              BlockStatistics& statistics) {
  switch (container) {
    case Container::kInt8:
      return quantize_as<Input, int8_t>(quantizer, block, statistics);
    case Container::kUInt8:
      return quantize_as<Input, uint8_t>(quantizer, block, statistics);
    case Container::kInt16:
      return quantize_as<Input, int16_t>(quantizer, block, statistics);
    case Container::kUInt16:
      return quantize_as<Input, uint16_t>(quantizer, block, statistics);
    case Container::kFloat32:
      return quantize_as<Input, float>(quantizer, block, statistics);
  }
}

template <class Input>
double abs_sum(const void* data, int64_t count) {
  const auto* x = static_cast<const Input*>(data);
  double lanes[kSumLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i % kSumLanes] += std::fabs(value(x[i]));
  return join_lanes(lanes);
}

template <class Input>
int64_t quantized_abs_sum(const Quantizer& quantizer, const void* data, int64_t count) {
  const auto* x = static_cast<const Input*>(data);
  int64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += static_cast<int64_t>(std::fabs(quantize_value(quantizer, value(x[i]), 0)));
  }
  return sum;
}

template <class Code>
void dequantize_as(const QuantParams& params, const void* data, int64_t count, float* x) {
  const auto* codes = static_cast<const Code*>(data);
  for (int64_t i = 0; i < count; ++i) {
    x[i] = params.scale * static_cast<float>(int32_t{codes[i]} - params.zero_code) + params.offset;
  }
}

void dequantize(const QuantParams& params, CodeType type, const void* codes, int64_t count, float* x) {
  switch (type) {
    case CodeType::kS8:
      return dequantize_as<int8_t>(params, codes, count, x);
    case CodeType::kU8:
      return dequantize_as<uint8_t>(params, codes, count, x);
    case CodeType::kS16:
      return dequantize_as<int16_t>(params, codes, count, x);
    case CodeType::kU16:
      return dequantize_as<uint16_t>(params, codes, count, x);
  }
}

}  // namespace

const QuantizeKernels kQuantize{{quantize<float>, quantize<BFloat16>},
                                {measure<float>, measure<BFloat16>},
                                {abs_sum<float>, abs_sum<BFloat16>},
                                {quantized_abs_sum<float>, quantized_abs_sum<BFloat16>},
                                dequantize};

}  // namespace bitdial::kernels::scalar
