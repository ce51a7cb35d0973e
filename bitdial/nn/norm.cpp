#include "bitdial/nn/norm.h"

#include <torch/torch.h>

#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"
#include "bitdial/nn/range_norm_call.h"
#include "bitdial/ops/quantized_tensor.h"

namespace bitdial::nn {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor per_channel(const Tensor& values) { return values.view({1, -1, 1, 1}); }

// Training mode. The gradient of the scale reaches only the extremes of each chunk, so their rows are saved.
class RangeNorm : public torch::autograd::Function<RangeNorm> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& /*x*/, const Tensor& gamma, const Tensor& beta,
                        const RangeNormCall& call) {
    ctx->save_for_backward({call.x, gamma, call.mean, call.divisor, call.top, call.bottom});
    ctx->saved_data["chunks"] = call.chunks;
    ctx->saved_data["bits"] = int64_t{call.quantizer.bits};
    ctx->saved_data["key"] = std::vector<int64_t>{call.quantizer.key.a, call.quantizer.key.b};
    return call.apply(gamma, beta);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    require(!at::GradMode::is_enabled(), "range_batch_norm2d", "Range BN cannot be differentiated twice");
    const PhaseScope phase(Phase::kNormalize);
    const auto saved = ctx->get_saved_variables();
    const auto key = ctx->saved_data["key"].toIntVector();
    RangeNormCall call;
    call.x = saved[0];
    call.mean = saved[2];
    call.divisor = saved[3];
    call.top = saved[4];
    call.bottom = saved[5];
    call.chunks = ctx->saved_data["chunks"].toInt();
    call.quantizer = {.bits = static_cast<int>(ctx->saved_data["bits"].toInt()),
                      .key = {.a = static_cast<uint32_t>(key[0]), .b = static_cast<uint32_t>(key[1])}};
    const auto result = call.backward(gradients[0], saved[1]);
    return {result.x, result.gamma, result.beta, Tensor()};
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
  const PhaseScope phase(Phase::kNormalize);
  require(input.dim() == 4, kName, "input must be [N, C, H, W], got {} dimensions", input.dim());
  require(input.size(1) == options.num_features, kName, "the layer has {} channels, input has {}",
          options.num_features, input.size(1));
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const bool is_narrow = input.scalar_type() == at::kBFloat16 || input.scalar_type() == at::kHalf;
  const Tensor x = quantize_input(is_narrow ? input.to(at::kFloat) : input);
  const Tensor gamma = weight.defined() ? weight : torch::ones_like(running_mean);
  const Tensor beta = bias.defined() ? bias : torch::zeros_like(running_mean);
  Tensor y;
  if (is_training()) {
    const RangeNormCall call = begin(x);
    y = RangeNorm::apply(x, gamma, beta, call);
  } else {
    const Tensor scale = gamma.div(running_scale.add(options.eps));
    y = x.sub(per_channel(running_mean)).mul(per_channel(scale)).add(per_channel(beta));
  }
  return is_narrow ? y.to(input.scalar_type()) : y;
}

RangeNormCall RangeBatchNorm2dImpl::begin(const Tensor& x) {
  const torch::NoGradGuard no_grad;
  const int64_t values = x.numel() / x.size(1);
  require(values % options.chunks == 0 && values >= 2 * options.chunks, "range_batch_norm2d",
          "{} x {} x {} = {} values in a channel do not split into {} chunks of at least 2", x.size(0),
          x.size(2), x.size(3), values, options.chunks);
  GradientQuantizer quantizer;
  if (options.quantize_bits) {
    // A stream apart from those of the layers' operands.
    quantizer = {*options.quantize_bits,
                 random_key({.seed = options.seed,
                             .step = static_cast<uint64_t>(num_batches_tracked.item<int64_t>()),
                             .layer = static_cast<uint32_t>(options.layer),
                             .tensor = kTensorRoles})};
  }
  RangeNormCall call(x.detach(), options.eps, options.chunks, quantizer);
  update_running(call.mean, call.sigma);
  return call;
}

void RangeBatchNorm2dImpl::update_running(const Tensor& mean, const Tensor& sigma) {
  running_mean.mul_(options.momentum).add_(mean, 1.0 - options.momentum);
  running_scale.mul_(options.momentum).add_(sigma, 1.0 - options.momentum);
  num_batches_tracked.add_(1);
}

Tensor RangeBatchNorm2dImpl::quantize_input(const Tensor& x) {
  if (!options.quantize_bits) return x;
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
