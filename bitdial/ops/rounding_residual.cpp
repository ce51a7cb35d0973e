#include "bitdial/ops/rounding_residual.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <array>

#include "bitdial/core/parallel.h"
#include "bitdial/core/quantizer.h"

namespace bitdial::ops {
namespace {

constexpr int64_t kBlock = 8192;
constexpr float kPackedSteps = 254.0F;

int64_t blocks_of(int64_t count) { return (count + kBlock - 1) / kBlock; }

template <class Code>
void subtract_steps(const float* x, const Code* codes, int64_t count, const Quantizer& quantizer,
                    float* residual) {
  const auto zero = static_cast<float>(quantizer.zero_code);
  for (int64_t i = 0; i < count; ++i) {
    residual[i] = (static_cast<float>(codes[i]) - zero) - steps(quantizer, x[i]);
  }
}

template <class Code>
void residual_of(const at::Tensor& x, const QuantizedTensor& quantized, at::Tensor& residual) {
  const float* values = x.const_data_ptr<float>();
  const auto* codes = static_cast<const Code*>(quantized.codes.const_data_ptr());
  float* out = residual.mutable_data_ptr<float>();
  std::vector<Quantizer> quantizers;
  for (const QuantParams& params : quantized.params)
    quantizers.push_back(make_quantizer(quantized.format, params));
  const int64_t per_scale = x.numel() / static_cast<int64_t>(quantizers.size());
  parallel_for(blocks_of(x.numel()), 1, [&](int64_t first, int64_t last) {
    const int64_t end = std::min(x.numel(), last * kBlock);
    for (int64_t i = first * kBlock; i < end;) {
      const int64_t scale = i / per_scale;
      const int64_t stop = std::min(end, (scale + 1) * per_scale);
      subtract_steps(values + i, codes + i, stop - i, quantizers[static_cast<size_t>(scale)], out + i);
      i = stop;
    }
  });
}

double to_double(float x) { return static_cast<double>(x); }
double to_double(int8_t x) { return static_cast<double>(x) / static_cast<double>(kPackedSteps); }

// Several sums side by side fill a vector register.
template <class Residual>
double dot(const float* a, const Residual* b, int64_t count) {
  constexpr int64_t kLanes = 8;
  std::array<double, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sums[static_cast<size_t>(lane)] += static_cast<double>(a[i + lane]) * to_double(b[i + lane]);
    }
  }
  for (; i < count; ++i) sums[0] += static_cast<double>(a[i]) * to_double(b[i]);
  double sum = 0.0;
  for (const double part : sums) sum += part;
  return sum;
}

template <class Residual>
std::vector<double> sums_by_scale(const at::Tensor& gradient, const at::Tensor& residual, int64_t scales) {
  const float* a = gradient.const_data_ptr<float>();
  const Residual* b = residual.const_data_ptr<Residual>();
  const int64_t per_scale = gradient.numel() / scales;
  const int64_t parts = blocks_of(per_scale);
  std::vector<double> partial(static_cast<size_t>(scales * parts));
  parallel_for(scales * parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t begin = (unit % parts) * kBlock;
      const int64_t start = (unit / parts) * per_scale + begin;
      partial[static_cast<size_t>(unit)] = dot(a + start, b + start, std::min(kBlock, per_scale - begin));
    }
  });
  std::vector<double> sums(static_cast<size_t>(scales), 0.0);
  for (int64_t unit = 0; unit < scales * parts; ++unit) {
    sums[static_cast<size_t>(unit / parts)] += partial[static_cast<size_t>(unit)];
  }
  return sums;
}

// The gradient in the memory order of its tensor.
at::Tensor aligned(const at::Tensor& gradient, const at::Tensor& like) {
  const at::Tensor values = gradient.to(at::kFloat).reshape(like.sizes());
  return values.strides() == like.strides() && values.is_non_overlapping_and_dense()
             ? values
             : at::empty_like(like, like.options().dtype(at::kFloat)).copy_(values);
}

}  // namespace

at::Tensor rounding_residual(const at::Tensor& tensor, const QuantizedTensor& quantized) {
  const at::Tensor x = tensor.to(at::kFloat);
  if (!x.device().is_cpu()) {
    // (x^ - x) / step: the same up to the rounding of x^.
    at::Tensor steps = at::empty({static_cast<int64_t>(quantized.params.size())}, at::kDouble);
    for (size_t i = 0; i < quantized.params.size(); ++i) {
      steps.mutable_data_ptr<double>()[i] = static_cast<double>(quantized.params[i].scale);
    }
    std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
    shape[0] = steps.numel();
    const at::Tensor moved = dequantize(quantized, at::kDouble).sub(x.to(at::kDouble));
    return moved.div(steps.to(x.device()).view(shape)).to(at::kFloat);
  }
  at::Tensor residual = at::empty_like(x);
  switch (container(quantized.format)) {
    case Container::kInt8:
      residual_of<int8_t>(x, quantized, residual);
      break;
    case Container::kUInt8:
      residual_of<uint8_t>(x, quantized, residual);
      break;
    case Container::kUInt16:
      residual_of<uint16_t>(x, quantized, residual);
      break;
    default:
      residual_of<int16_t>(x, quantized, residual);
  }
  return residual;
}

at::Tensor pack_residual(const at::Tensor& residual) {
  return residual.mul(kPackedSteps).round_().clamp_(-127, 127).to(at::kChar);
}

std::vector<double> step_gradients(const at::Tensor& gradient, const at::Tensor& residual, size_t scales) {
  const auto count = static_cast<int64_t>(scales);
  if (residual.numel() == 0) return std::vector<double>(scales, 0.0);
  if (residual.device().is_cpu()) {
    const at::Tensor g = aligned(gradient, residual);
    return residual.scalar_type() == at::kChar ? sums_by_scale<int8_t>(g, residual, count)
                                               : sums_by_scale<float>(g, residual, count);
  }
  const double unit = residual.scalar_type() == at::kChar ? static_cast<double>(kPackedSteps) : 1.0;
  const at::Tensor products =
      gradient.reshape(residual.sizes()).to(at::kDouble).mul(residual.to(at::kDouble)).div_(unit);
  const at::Tensor sums = products.reshape({count, -1}).sum(1).cpu();
  return {sums.const_data_ptr<double>(), sums.const_data_ptr<double>() + count};
}

}  // namespace bitdial::ops
