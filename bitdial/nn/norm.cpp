#include "bitdial/nn/norm.h"

#include <torch/torch.h>

#include <cmath>
#include <numbers>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/nn/range_norm.h"
#include "bitdial/ops/quantized_tensor.h"

namespace bitdial::nn {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Banner et al. 2018, the released code: turns the range of n normal values into an estimate of their
// deviation.
double range_to_sigma(int64_t n) {
  return 0.5 * 0.35 * (1.0 + std::sqrt(std::numbers::pi * std::log(4.0))) /
         std::sqrt(2.0 * std::log(static_cast<double>(n)));
}

// Per channel of one batch. `top` and `bottom` are the rows (of the flattened B*H*W) of each chunk's
// extremes.
struct Statistics {
  Tensor mean;    // [C]
  Tensor sigma;   // [C]
  Tensor top;     // [chunks, C]
  Tensor bottom;  // [chunks, C]
};

bool on_loops(const Tensor& x) { return x.device().is_cpu() && x.scalar_type() == at::kFloat; }

RangeNormShape shape_of(const Tensor& x, int64_t chunks) {
  return {.rows = x.numel() / x.size(1), .channels = x.size(1), .chunks = chunks};
}

// x as [B*H*W, C].
Tensor rows_of(const Tensor& x) { return x.permute({0, 2, 3, 1}).reshape({-1, x.size(1)}); }

Tensor per_channel(const Tensor& values) { return values.view({1, -1, 1, 1}); }

Statistics measure(const Tensor& x, int64_t chunks) {
  const RangeNormShape shape = shape_of(x, chunks);
  const int64_t length = shape.rows / chunks;
  Statistics s;
  Tensor high, low;
  if (on_loops(x)) {
    s.mean = at::empty({shape.channels}, x.options().memory_format(at::MemoryFormat::Contiguous));
    s.top = at::empty({chunks, shape.channels}, at::kInt);
    s.bottom = at::empty({chunks, shape.channels}, at::kInt);
    range_norm_statistics(shape, x.const_data_ptr<float>(), s.mean.mutable_data_ptr<float>(),
                          s.top.mutable_data_ptr<int32_t>(), s.bottom.mutable_data_ptr<int32_t>());
    high = rows_of(x).gather(0, s.top.to(at::kLong));
    low = rows_of(x).gather(0, s.bottom.to(at::kLong));
  } else {
    const Tensor rows = rows_of(x);
    const Tensor chunked = rows.view({chunks, length, shape.channels});
    const Tensor first = at::arange(chunks, rows.options().dtype(at::kLong)).view({-1, 1}).mul(length);
    s.mean = rows.mean(0);
    std::tie(high, s.top) = chunked.max(1);
    std::tie(low, s.bottom) = chunked.min(1);
    s.top = s.top.add(first);
    s.bottom = s.bottom.add(first);
  }
  s.sigma = high.sub(low).mean(0).mul(range_to_sigma(length));
  return s;
}

// How the output gradient is quantised (SBM: extremes of the tensor, stochastic rounding); 0 bits: not at
// all.
struct GradientQuantizer {
  int bits = 0;
  RandomKey key;

  Tensor operator()(const Tensor& gradient) const {
    if (bits == 0) return gradient;
    const Tensor g = ops::to_dense(gradient, false);
    const Format format{.rule = ScaleRule::kAffine, .word_length = bits, .rounding = Rounding::kStochastic};
    const auto ranges = ops::measure_range(g, Granularity::kTensor, RangeStatistic::kExtreme);
    require(ranges[0].is_finite(), "range_batch_norm2d", "the output gradient is not finite");
    const auto codes = ops::quantize(g, format, ops::choose_params(format, ranges), key);
    return ops::dequantize(codes, gradient.scalar_type());
  }
};

// Training mode. The gradient of the scale reaches only the extremes of each chunk, so their rows are saved.
class RangeNorm : public torch::autograd::Function<RangeNorm> {
 public:
  // `statistics` receives the batch's.
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                        double eps, int64_t chunks, const GradientQuantizer& quantizer,
                        Statistics* statistics) {
    const Statistics s = measure(x, chunks);
    *statistics = s;
    const Tensor divisor = s.sigma.add(eps);
    ctx->save_for_backward({x, gamma, s.mean, divisor, s.top, s.bottom});
    ctx->saved_data["chunks"] = chunks;
    ctx->saved_data["bits"] = int64_t{quantizer.bits};
    ctx->saved_data["key"] = std::vector<int64_t>{quantizer.key.a, quantizer.key.b};
    const Tensor scale = gamma.detach().div(divisor).to(x.scalar_type());
    const Tensor shift = beta.detach().to(x.scalar_type());
    if (!on_loops(x)) {
      return x.sub(per_channel(s.mean)).mul(per_channel(scale)).add(per_channel(shift));
    }
    Tensor y = at::empty_like(x);
    range_norm_apply(shape_of(x, chunks), x.const_data_ptr<float>(), s.mean.const_data_ptr<float>(),
                     scale.contiguous().const_data_ptr<float>(), shift.contiguous().const_data_ptr<float>(),
                     y.mutable_data_ptr<float>());
    return y;
  }

  // dx_i = gamma (g_i - mean g) / S - gamma (sum_j g_j out_j) / S * dS/dx_i with dS/dx_i = +-c/K at the
  // extremes.
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    require(!at::GradMode::is_enabled(), "range_batch_norm2d", "Range BN cannot be differentiated twice");
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &gamma = saved[1], &mean = saved[2], &divisor = saved[3];
    const int64_t chunks = ctx->saved_data["chunks"].toInt();
    const RangeNormShape shape = shape_of(x, chunks);
    const Tensor g =
        quantizer_of(ctx)(gradients[0]).contiguous(x.suggest_memory_format()).to(x.scalar_type());
    const auto [sum_g, sum_gx] = sums(shape, x, mean, g);
    const Tensor scale = gamma.div(divisor);
    const Tensor mean_g = sum_g.div(static_cast<double>(shape.rows)).to(x.scalar_type());
    const double share = range_to_sigma(shape.rows / chunks) / static_cast<double>(chunks);
    const Tensor kick = sum_gx.mul(scale).div(divisor).mul(-share).to(x.scalar_type());
    const Tensor dx = spread(shape, g, mean_g, scale.to(x.scalar_type()), kick, saved[4], saved[5]);
    return {dx,
            sum_gx.div(divisor).to(gamma.scalar_type()),
            sum_g.to(gamma.scalar_type()),
            Tensor(),
            Tensor(),
            Tensor(),
            Tensor()};
  }

 private:
  static GradientQuantizer quantizer_of(AutogradContext* ctx) {
    const auto key = ctx->saved_data["key"].toIntVector();
    return {.bits = static_cast<int>(ctx->saved_data["bits"].toInt()),
            .key = {.a = static_cast<uint32_t>(key[0]), .b = static_cast<uint32_t>(key[1])}};
  }

  static std::pair<Tensor, Tensor> sums(const RangeNormShape& shape, const Tensor& x, const Tensor& mean,
                                        const Tensor& g) {
    if (!on_loops(x)) {
      return {rows_of(g).sum(0), rows_of(g.mul(x.sub(per_channel(mean)))).sum(0)};
    }
    Tensor sum_g = at::empty({shape.channels}, at::kDouble);
    Tensor sum_gx = at::empty({shape.channels}, at::kDouble);
    range_norm_backward_sums(shape, x.const_data_ptr<float>(), mean.const_data_ptr<float>(),
                             g.const_data_ptr<float>(), sum_g.mutable_data_ptr<double>(),
                             sum_gx.mutable_data_ptr<double>());
    return {sum_g, sum_gx};
  }

  static Tensor spread(const RangeNormShape& shape, const Tensor& g, const Tensor& mean_g,
                       const Tensor& scale, const Tensor& kick, const Tensor& top, const Tensor& bottom) {
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
};

// The values on the grid; the gradient passes unchanged.
class QuantizeInput : public torch::autograd::Function<QuantizeInput> {
 public:
  static Tensor forward(AutogradContext*, const Tensor& x, const Format& format, const Range& range) {
    const QuantParams params = choose_params(format, range);
    return ops::dequantize(ops::quantize(ops::to_dense(x, false), format, {&params, 1}, {}), x.scalar_type());
  }
  static variable_list backward(AutogradContext*, const variable_list& gradients) {
    return {gradients[0], Tensor(), Tensor()};
  }
};

}  // namespace

RangeBatchNorm2dImpl::RangeBatchNorm2dImpl(const RangeBatchNorm2dOptions& options_) : options(options_) {
  reset();
}

void RangeBatchNorm2dImpl::reset() {
  require(options.num_features > 0 && options.chunks > 0, "range_batch_norm2d",
          "channels and chunks must be positive, got {} and {}", options.num_features, options.chunks);
  weight = register_parameter("weight", options.affine ? torch::ones(options.num_features) : Tensor(),
                              options.affine);
  bias = register_parameter("bias", options.affine ? torch::zeros(options.num_features) : Tensor(),
                            options.affine);
  running_mean = register_buffer("running_mean", torch::zeros(options.num_features));
  running_scale = register_buffer("running_scale", torch::zeros(options.num_features));
  num_batches_tracked = register_buffer("num_batches_tracked", torch::tensor(int64_t{0}));
  if (options.quantize_bits) running_range = register_buffer("running_range", torch::zeros(2));
}

void RangeBatchNorm2dImpl::pretty_print(std::ostream& stream) const {
  stream << "bitdial::nn::RangeBatchNorm2d(" << options.num_features << ", chunks=" << options.chunks
         << ", eps=" << options.eps << ", momentum=" << options.momentum << ')';
}

Tensor RangeBatchNorm2dImpl::forward(const Tensor& input) {
  constexpr const char* kName = "range_batch_norm2d";
  require(input.dim() == 4, kName, "input must be [N, C, H, W], got {} dimensions", input.dim());
  require(input.size(1) == options.num_features, kName, "the layer has {} channels, input has {}",
          options.num_features, input.size(1));
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const bool is_narrow = input.scalar_type() == at::kBFloat16 || input.scalar_type() == at::kHalf;
  Tensor x = is_narrow ? input.to(at::kFloat) : input;
  if (options.quantize_bits) x = quantize_input(x);
  const Tensor gamma = weight.defined() ? weight : torch::ones_like(running_mean);
  const Tensor beta = bias.defined() ? bias : torch::zeros_like(running_mean);
  Tensor y;
  if (is_training()) {
    const int64_t values = x.numel() / x.size(1);
    require(values % options.chunks == 0 && values >= 2 * options.chunks, kName,
            "{} x {} x {} = {} values in a channel do not split into {} chunks of at least 2", x.size(0),
            x.size(2), x.size(3), values, options.chunks);
    Statistics statistics;
    const Tensor dense = on_loops(x) ? x.contiguous(at::MemoryFormat::ChannelsLast) : x;
    GradientQuantizer quantizer;
    if (options.quantize_bits) {
      // A stream apart from those of the layers' operands.
      quantizer = {*options.quantize_bits,
                   random_key({.seed = options.seed,
                               .step = static_cast<uint64_t>(num_batches_tracked.item<int64_t>()),
                               .layer = static_cast<uint32_t>(options.layer),
                               .tensor = kTensorRoles})};
    }
    y = RangeNorm::apply(dense, gamma, beta, options.eps, options.chunks, quantizer, &statistics);
    update_running(statistics.mean, statistics.sigma);
  } else {
    const Tensor scale = gamma.div(running_scale.add(options.eps));
    y = x.sub(per_channel(running_mean)).mul(per_channel(scale)).add(per_channel(beta));
  }
  return is_narrow ? y.to(input.scalar_type()) : y;
}

void RangeBatchNorm2dImpl::update_running(const Tensor& mean, const Tensor& sigma) {
  const torch::NoGradGuard no_grad;
  running_mean.mul_(options.momentum).add_(mean.detach(), 1.0 - options.momentum);
  running_scale.mul_(options.momentum).add_(sigma.detach(), 1.0 - options.momentum);
  num_batches_tracked.add_(1);
}

Tensor RangeBatchNorm2dImpl::quantize_input(const Tensor& x) {
  const Format format{.rule = ScaleRule::kAffine, .word_length = *options.quantize_bits};
  Range range;
  if (is_training()) {
    const torch::NoGradGuard no_grad;
    range = ops::measure_range(ops::to_dense(x, false), Granularity::kTensor, RangeStatistic::kSampleMean)[0];
    require(range.is_finite(), "range_batch_norm2d", "the input is not finite");
    running_range.mul_(options.momentum).add_(torch::tensor({range.min, range.max}), 1.0 - options.momentum);
  } else {
    range = {running_range[0].item<float>(), running_range[1].item<float>()};
  }
  return QuantizeInput::apply(x, format, range);
}

torch::nn::AnyModule make_norm2d(Normalization normalization, int64_t channels, int64_t layer,
                                 int range_norm_bits) {
  if (normalization == Normalization::kBatch) return torch::nn::AnyModule(torch::nn::BatchNorm2d(channels));
  RangeBatchNorm2dOptions options(channels);
  if (range_norm_bits > 0) options.quantize_bits = range_norm_bits;
  options.seed = at::globalContext().defaultGenerator(at::kCPU).current_seed();
  options.layer = layer;
  return torch::nn::AnyModule(RangeBatchNorm2d(options));
}

}  // namespace bitdial::nn
