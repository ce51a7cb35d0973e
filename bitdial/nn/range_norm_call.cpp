#include "bitdial/nn/range_norm_call.h"

#include <torch/torch.h>

#include <cmath>
#include <numbers>
#include <tuple>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/nn/range_norm.h"
#include "bitdial/ops/quantized_tensor.h"

namespace bitdial::nn {
namespace {

using at::Tensor;

// Banner et al. 2018, the released code: turns the range of n normal values into an estimate of their
// deviation.
double range_to_sigma(int64_t n) {
  return 0.5 * 0.35 * (1.0 + std::sqrt(std::numbers::pi * std::log(4.0))) /
         std::sqrt(2.0 * std::log(static_cast<double>(n)));
}

bool on_loops(const Tensor& x) { return x.device().is_cpu() && x.scalar_type() == at::kFloat; }

RangeNormShape shape_of(const Tensor& x, int64_t chunks) {
  return {.rows = x.numel() / x.size(1), .channels = x.size(1), .chunks = chunks};
}

// x as [N*H*W, C].
Tensor rows_of(const Tensor& x) { return x.permute({0, 2, 3, 1}).reshape({-1, x.size(1)}); }

Tensor per_channel(const Tensor& values) { return values.view({1, -1, 1, 1}); }

std::pair<Tensor, Tensor> gradient_sums(const RangeNormShape& shape, const Tensor& x, const Tensor& mean,
                                        const Tensor& g) {
  if (!on_loops(x)) return {rows_of(g).sum(0), rows_of(g.mul(x.sub(per_channel(mean)))).sum(0)};
  Tensor sum_g = at::empty({shape.channels}, at::kDouble);
  Tensor sum_gx = at::empty({shape.channels}, at::kDouble);
  range_norm_backward_sums(shape, x.const_data_ptr<float>(), mean.const_data_ptr<float>(),
                           g.const_data_ptr<float>(), sum_g.mutable_data_ptr<double>(),
                           sum_gx.mutable_data_ptr<double>());
  return {sum_g, sum_gx};
}

Tensor spread(const RangeNormShape& shape, const Tensor& g, const Tensor& mean_g, const Tensor& scale,
              const Tensor& kick, const Tensor& top, const Tensor& bottom) {
  if (on_loops(g)) {
    Tensor dx = at::empty_like(g);
    range_norm_backward_apply(shape, g.const_data_ptr<float>(), mean_g.const_data_ptr<float>(),
                              scale.contiguous().const_data_ptr<float>(),
                              kick.contiguous().const_data_ptr<float>(), top.const_data_ptr<int32_t>(),
                              bottom.const_data_ptr<int32_t>(), dx.mutable_data_ptr<float>());
    return dx;
  }
  Tensor rows = rows_of(g).sub(mean_g).mul(scale);
  rows.scatter_add_(0, top, kick.expand_as(top));
  rows.scatter_add_(0, bottom, kick.neg().expand_as(bottom));
  return rows.view({g.size(0), g.size(2), g.size(3), g.size(1)}).permute({0, 3, 1, 2});
}

}  // namespace

Tensor GradientQuantizer::operator()(const Tensor& gradient) const {
  if (bits == 0) return gradient;
  const Tensor g = ops::to_dense(gradient, false);
  const Format format{.rule = ScaleRule::kAffine, .word_length = bits, .rounding = Rounding::kStochastic};
  const auto ranges = ops::measure_range(g, Granularity::kTensor, RangeStatistic::kExtreme);
  require(ranges[0].is_finite(), "range_batch_norm2d", "the output gradient is not finite");
  const auto codes = ops::quantize(g, format, ops::choose_params(format, ranges), key);
  return ops::dequantize(codes, gradient.scalar_type());
}

RangeNormCall::RangeNormCall(const Tensor& input, double eps, int64_t chunk_count,
                             const GradientQuantizer& gradient_quantizer)
    : x(on_loops(input) ? input.contiguous(at::MemoryFormat::ChannelsLast) : input),
      chunks(chunk_count),
      quantizer(gradient_quantizer) {
  const RangeNormShape shape = shape_of(x, chunks);
  const int64_t length = shape.rows / chunks;
  Tensor high, low;
  if (on_loops(x)) {
    mean = at::empty({shape.channels}, x.options().memory_format(at::MemoryFormat::Contiguous));
    top = at::empty({chunks, shape.channels}, at::kInt);
    bottom = at::empty({chunks, shape.channels}, at::kInt);
    range_norm_statistics(shape, x.const_data_ptr<float>(), mean.mutable_data_ptr<float>(),
                          top.mutable_data_ptr<int32_t>(), bottom.mutable_data_ptr<int32_t>());
    high = rows_of(x).gather(0, top.to(at::kLong));
    low = rows_of(x).gather(0, bottom.to(at::kLong));
  } else {
    const Tensor rows = rows_of(x);
    const Tensor chunked = rows.view({chunks, length, shape.channels});
    const Tensor first = at::arange(chunks, rows.options().dtype(at::kLong)).view({-1, 1}).mul(length);
    mean = rows.mean(0);
    std::tie(high, top) = chunked.max(1);
    std::tie(low, bottom) = chunked.min(1);
    top = top.add(first);
    bottom = bottom.add(first);
  }
  sigma = high.sub(low).mean(0).mul(range_to_sigma(length));
  divisor = sigma.add(eps);
}

Tensor RangeNormCall::scale(const Tensor& gamma) const {
  return gamma.detach().div(divisor).to(x.scalar_type()).contiguous();
}

Tensor RangeNormCall::apply(const Tensor& gamma, const Tensor& beta) const {
  const Tensor factor = scale(gamma);
  const Tensor shift = beta.detach().to(x.scalar_type()).contiguous();
  if (!on_loops(x)) return x.sub(per_channel(mean)).mul(per_channel(factor)).add(per_channel(shift));
  Tensor y = at::empty_like(x);
  range_norm_apply(shape_of(x, chunks), x.const_data_ptr<float>(), mean.const_data_ptr<float>(),
                   factor.const_data_ptr<float>(), shift.const_data_ptr<float>(),
                   y.mutable_data_ptr<float>());
  return y;
}

RangeNormCall::Gradients RangeNormCall::backward(const Tensor& gradient, const Tensor& gamma) const {
  const RangeNormShape shape = shape_of(x, chunks);
  const Tensor g = quantizer(gradient).contiguous(x.suggest_memory_format()).to(x.scalar_type());
  const auto [sum_g, sum_gx] = gradient_sums(shape, x, mean, g);
  const Tensor factor = gamma.div(divisor);
  const Tensor mean_g = sum_g.div(static_cast<double>(shape.rows)).to(x.scalar_type());
  const double share = range_to_sigma(shape.rows / chunks) / static_cast<double>(chunks);
  const Tensor kick = sum_gx.mul(factor).div(divisor).mul(-share).to(x.scalar_type());
  return {spread(shape, g, mean_g, factor.to(x.scalar_type()), kick, top, bottom),
          sum_gx.div(divisor).to(gamma.scalar_type()), sum_g.to(gamma.scalar_type())};
}

}  // namespace bitdial::nn
