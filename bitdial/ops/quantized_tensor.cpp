#include "bitdial/ops/quantized_tensor.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "bitdial/core/error.h"
#include "bitdial/core/quantizer.h"
#include "bitdial/kernels/quantize.h"

namespace bitdial::ops {
namespace {

using kernels::MemoryOrder;

// Kernels work in main memory; on other devices LibTorch's operators do.
bool on_kernels(const at::Tensor& x) { return x.device().is_cpu(); }

// The kernels read float32 and bfloat16.
at::Tensor as_readable(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 && on_kernels(x) ? x : x.to(at::kFloat);
}

// function(pointer to the data in its own type).
template <class Function>
auto with_data(const at::Tensor& x, const Function& function) {
  if (x.scalar_type() == at::kBFloat16) {
    return function(static_cast<const kernels::BFloat16*>(x.const_data_ptr()));
  }
  return function(x.const_data_ptr<float>());
}

at::Tensor empty_codes(const at::Tensor& x, Container container) {
  return at::empty_like(x, x.options().dtype(code_dtype(container)), at::MemoryFormat::Preserve);
}

}  // namespace

kernels::TensorShape kernel_shape(const at::Tensor& x) {
  kernels::TensorShape shape;
  if (x.dim() != 4) {
    shape.order = MemoryOrder::kPlanar;
    shape.outer = x.dim() > 0 ? x.size(0) : 1;
    shape.inner = 1;
    shape.channels = shape.outer > 0 ? x.numel() / shape.outer : 0;
    return shape;
  }
  shape.outer = x.size(0);
  shape.channels = x.size(1);
  shape.inner = x.size(2) * x.size(3);
  shape.order = x.is_contiguous() ? MemoryOrder::kPlanar : MemoryOrder::kInterleaved;
  return shape;
}

at::ScalarType code_dtype(Container container) {
  switch (container) {
    case Container::kInt8:
      return at::kChar;
    case Container::kUInt8:
      return at::kByte;
    case Container::kInt16:
    case Container::kUInt16:  // LibTorch's uint16 has hardly any operators
      return at::kShort;
    case Container::kFloat32:
      return at::kFloat;
  }
  return at::kFloat;
}

kernels::CodeType code_type(Container container) {
  switch (container) {
    case Container::kUInt8:
      return kernels::CodeType::kU8;
    case Container::kInt16:
      return kernels::CodeType::kS16;
    case Container::kUInt16:
      return kernels::CodeType::kU16;
    default:
      return kernels::CodeType::kS8;
  }
}

kernels::OutputType output_type(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? kernels::OutputType::kBFloat16 : kernels::OutputType::kFloat32;
}

at::Tensor to_dense(const at::Tensor& x, bool channels_last) {
  const at::Tensor values = x.detach();
  if (values.dim() != 4) return values.contiguous();
  if (channels_last) return values.contiguous(at::MemoryFormat::ChannelsLast);
  return values.is_contiguous(at::MemoryFormat::ChannelsLast) ? values : values.contiguous();
}

std::vector<Range> measure_range(const at::Tensor& tensor, Granularity granularity,
                                 RangeStatistic statistic) {
  const at::Tensor x = as_readable(tensor);
  if (!on_kernels(x)) return generic::measure_range(x, granularity, statistic);
  const auto shape = kernel_shape(x);
  if (granularity == Granularity::kTensor && statistic == RangeStatistic::kSampleMean) {
    return {with_data(x, [&](const auto* data) { return kernels::mean_sample_range(data, shape); })};
  }
  std::vector<Range> ranges(granularity == Granularity::kTensor ? 1 : static_cast<size_t>(shape.outer));
  with_data(x, [&](const auto* data) { kernels::measure_range(data, shape, granularity, ranges); });
  return ranges;
}

Range union_of(std::span<const Range> ranges) {
  Range all = ranges.empty() ? Range{} : ranges[0];
  for (const Range& range : ranges) {
    if (!range.is_finite()) return range;
    all = {std::min(all.min, range.min), std::max(all.max, range.max)};
  }
  return all;
}

std::vector<QuantParams> choose_params(const Format& format, std::span<const Range> ranges) {
  std::vector<QuantParams> params;
  params.reserve(ranges.size());
  for (const Range& range : ranges) params.push_back(bitdial::choose_params(format, range));
  return params;
}

double abs_sum(const at::Tensor& tensor) {
  const at::Tensor x = as_readable(tensor);
  if (!on_kernels(x)) return generic::abs_sum(x);
  return with_data(x, [&](const auto* data) { return kernels::abs_sum(data, x.numel()); });
}

double quantized_abs_sum(const at::Tensor& tensor, int word_length, float step) {
  const at::Tensor x = as_readable(tensor);
  if (!on_kernels(x)) return generic::quantized_abs_sum(x, word_length, step);
  return with_data(
      x, [&](const auto* data) { return kernels::quantized_abs_sum(data, x.numel(), word_length, step); });
}

std::pair<double, double> abs_sums(const at::Tensor& tensor, int word_length, float step) {
  const at::Tensor x = as_readable(tensor);
  if (!on_kernels(x)) return {generic::abs_sum(x), generic::quantized_abs_sum(x, word_length, step)};
  const kernels::Grid grid{.word_length = word_length, .step = step};
  const kernels::AbsSums sums = with_data(x, [&](const auto* data) {
    return kernels::abs_sums(data, x.numel(), {&grid, 1});
  });
  return {sums.data, sums.grids[0]};
}

QuantizeStatistics quantize_into(const at::Tensor& x, const Format& format,
                                 std::span<const QuantParams> params, RandomKey key, at::Tensor& codes) {
  return with_data(x, [&](const auto* data) {
    return kernels::quantize(data, kernel_shape(x), format, params, key, codes.mutable_data_ptr());
  });
}

QuantizedTensor quantize(const at::Tensor& tensor, const Format& format, std::span<const QuantParams> params,
                         RandomKey key, QuantizeStatistics* statistics) {
  const at::Tensor x = as_readable(tensor);
  QuantizeStatistics counted;
  QuantizedTensor result;
  result.format = format;
  if (has_integer_codes(format)) result.params.assign(params.begin(), params.end());
  if (on_kernels(x)) {
    result.codes = empty_codes(x, container(format));
    counted = quantize_into(x, format, params, key, result.codes);
  } else {
    result.codes = generic::quantize(x, format, params, key, counted);
  }
  if (statistics != nullptr) *statistics = counted;
  return result;
}

QuantizedTensor unquantized(const at::Tensor& x, const Format& format) {
  return {.codes = format.is_bfloat16() ? x.to(at::kBFloat16) : x, .params = {}, .format = format};
}

at::Tensor dequantize(const QuantizedTensor& x, at::ScalarType dtype) {
  if (!x.has_codes()) return x.codes.to(dtype);
  if (!on_kernels(x.codes) || dtype == at::kDouble) return generic::dequantize(x, dtype);
  at::Tensor values = empty_codes(x.codes, Container::kFloat32);
  kernels::dequantize(x.codes.const_data_ptr(), code_type(container(x.format)), kernel_shape(x.codes),
                      x.params, values.mutable_data_ptr<float>());
  return values.to(dtype);
}

namespace generic {
namespace {

// One number of each QuantParams, shaped to broadcast along dimension 0 of `like`.
template <class Member>
at::Tensor column(std::span<const QuantParams> params, Member member, const at::Tensor& like,
                  at::ScalarType dtype) {
  at::Tensor values = at::empty({static_cast<int64_t>(params.size())}, at::kDouble);
  for (size_t i = 0; i < params.size(); ++i) {
    values.mutable_data_ptr<double>()[i] = static_cast<double>(params[i].*member);
  }
  std::vector<int64_t> shape(static_cast<size_t>(std::max<int64_t>(like.dim(), 1)), 1);
  shape[0] = static_cast<int64_t>(params.size());
  return values.to(like.device(), dtype).view(shape);
}

// The upper kStochasticBits random bits of every logical index; 64-bit integers hold 32 bits on the way.
at::Tensor upper_bits(const at::Tensor& like, RandomKey key) {
  constexpr int64_t kMask = 0xFFFFFFFF;
  const auto options = like.options().dtype(at::kLong);
  const at::Tensor index = at::arange(like.numel(), options).view(like.sizes());
  const auto multiply = [](const at::Tensor& x, int64_t factor) { return x.mul(factor).bitwise_and(kMask); };
  const auto fold = [](const at::Tensor& x, int64_t bits) {
    return x.bitwise_xor(x.bitwise_right_shift(at::Scalar(bits)));
  };
  at::Tensor x = index.bitwise_and(kMask).bitwise_xor(int64_t{key.a});
  x = x.bitwise_xor(multiply(index.bitwise_right_shift(at::Scalar(32)), 0x9E3779B9));
  x = multiply(fold(x, 16), 0x7FEB352D).bitwise_xor(int64_t{key.b});
  x = fold(multiply(fold(x, 15), 0x846CA68B), 16);
  return x.bitwise_right_shift(at::Scalar(32 - kStochasticBits)).to(at::kFloat);
}

at::Tensor flat(const at::Tensor& x) { return x.reshape({x.dim() > 0 ? x.size(0) : 1, -1}); }

}  // namespace

std::vector<Range> measure_range(const at::Tensor& x, Granularity granularity, RangeStatistic statistic) {
  if (granularity == Granularity::kTensor && statistic == RangeStatistic::kExtreme) {
    const auto [low, high] = x.aminmax();
    return {{low.item<float>(), high.item<float>()}};
  }
  auto [low, high] = flat(x).aminmax(1);
  if (granularity == Granularity::kTensor) {
    return {{low.to(at::kDouble).mean().item<float>(), high.to(at::kDouble).mean().item<float>()}};
  }
  low = low.cpu();
  high = high.cpu();
  std::vector<Range> ranges;
  for (int64_t i = 0; i < low.numel(); ++i) {
    ranges.push_back({low.const_data_ptr<float>()[i], high.const_data_ptr<float>()[i]});
  }
  return ranges;
}

double abs_sum(const at::Tensor& x) { return x.to(at::kDouble).abs().sum().item<double>(); }

double quantized_abs_sum(const at::Tensor& x, int word_length, float step) {
  const double half = std::ldexp(1.0, word_length - 1);
  const at::Tensor steps = x.to(at::kFloat).div(step).to(at::kDouble).round().clamp(-half, half - 1);
  return steps.abs().sum().item<double>() * static_cast<double>(step);
}

// core/quantizer.h, one operator per float32 operation.
at::Tensor quantize(const at::Tensor& x, const Format& format, std::span<const QuantParams> params,
                    RandomKey key, QuantizeStatistics& statistics) {
  const auto [min_code, max_code] = code_range(format);
  const at::Tensor scale = column(params, &QuantParams::scale, x, at::kFloat);
  const at::Tensor zero = column(params, &QuantParams::zero_code, x, at::kFloat);
  const at::Tensor offset = column(params, &QuantParams::offset, x, at::kFloat);
  const at::Tensor low = zero.neg().add(static_cast<double>(min_code));
  const at::Tensor high = zero.neg().add(static_cast<double>(max_code));
  const at::Tensor y = x.sub(offset).div(scale);
  statistics.count = x.numel();
  statistics.saturated = y.lt(low.sub(0.5)).logical_or_(y.gt(high.add(0.5))).sum().item<int64_t>();
  statistics.range = generic::measure_range(x, Granularity::kTensor, RangeStatistic::kExtreme)[0];
  at::Tensor r = at::minimum(at::maximum(y, low), high);
  if (format.rounding == Rounding::kStochastic) {
    const at::Tensor nearest = r.round();
    const at::Tensor fraction = r.sub(nearest).mul(0x1p22).round();
    r = nearest.add(fraction.add(upper_bits(x, key)).mul(0x1p-22).floor());
  } else {
    r = r.round();
  }
  const at::Tensor values = r.mul(scale).add(offset);
  statistics.zeros = values.eq(0).sum().item<int64_t>();
  if (container(format) == Container::kFloat32) return values;
  at::Tensor codes = r.add(zero);
  // Codes above 32767 become the int16 with the same bits.
  if (container(format) == Container::kUInt16) codes = codes.sub(codes.gt(32767).to(at::kFloat).mul(65536));
  return codes.to(code_dtype(container(format)));
}

at::Tensor dequantize(const QuantizedTensor& x, at::ScalarType dtype) {
  if (!x.has_codes()) return x.codes.to(dtype);
  // float32 takes the two operations of core/quantizer.h.
  const auto compute = dtype == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor codes = x.codes.to(compute);
  if (container(x.format) == Container::kUInt16) codes = codes.add(codes.lt(0).to(compute).mul(65536));
  return codes.sub(column(x.params, &QuantParams::zero_code, codes, compute))
      .mul_(column(x.params, &QuantParams::scale, codes, compute))
      .add_(column(x.params, &QuantParams::offset, codes, compute))
      .to(dtype);
}

}  // namespace generic
}  // namespace bitdial::ops
