#include "bitdial/ops/gemm.h"

#include <ATen/autocast_mode.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <optional>
#include <utility>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/ops/column_sums.h"
#include "bitdial/ops/gemm_problem.h"

namespace bitdial::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The bias's gradient: the sum over everything but the channel.
at::Tensor channel_sums(const GemmProblem& p, const at::Tensor& dy) {
  const bool is_rows = p.is_linear || dy.is_contiguous(at::MemoryFormat::ChannelsLast);
  if (dy.device().is_cpu() && dy.scalar_type() == at::kFloat && is_rows) {
    const int64_t channels = p.shape.out_channels;
    at::Tensor sums = at::empty({channels}, at::kDouble);
    column_sums(dy.const_data_ptr<float>(), dy.numel() / channels, channels, sums.mutable_data_ptr<double>());
    return sums.to(at::kFloat);
  }
  const at::Tensor rows = p.is_linear ? dy.reshape({-1, p.shape.out_channels}) : dy;
  const std::vector<int64_t> axes = p.is_linear ? std::vector<int64_t>{0} : std::vector<int64_t>{0, 2, 3};
  return rows.sum(axes, false, at::kDouble).to(dy.scalar_type());
}

// What forward leaves for backward besides the codes, which autograd saves as tensors.
struct Call : torch::CustomClassHolder {
  GemmProblem problem;
  Needed needed;
  bool has_bias = false;
  std::shared_ptr<Operands> operands;
  QuantizedTensor x_wtgrad;  // without codes
  QuantizedTensor w_bprop;   // without codes
};

at::Tensor take_codes(QuantizedTensor& x) { return std::exchange(x.codes, at::Tensor()); }

at::Tensor forward_pass(Call& call, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const LayerScope layer(call.operands->layer());
  const GemmProblem& p = call.problem;
  ForwardOperands operands = call.operands->forward(to_dense(x, p.channels_last()),
                                                    to_dense(weight, p.channels_last()), call.needed);
  at::Tensor y = fprop(p, operands.x, operands.w, bias.defined() ? bias.detach() : bias);
  call.x_wtgrad = std::move(operands.x_wtgrad);
  call.w_bprop = std::move(operands.w_bprop);
  return y;
}

class QuantizedGemms : public torch::autograd::Function<QuantizedGemms> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, const c10::intrusive_ptr<Call>& call) {
    call->has_bias = bias.has_value();
    at::Tensor y = forward_pass(*call, x, weight, bias.value_or(at::Tensor()));
    ctx->save_for_backward({take_codes(call->x_wtgrad), take_codes(call->w_bprop)});
    ctx->saved_data["call"] = at::IValue::make_capsule(call);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list dys) {
    const auto call = c10::static_intrusive_pointer_cast<Call>(ctx->saved_data["call"].toCapsule());
    const auto saved = ctx->get_saved_variables();
    if (!dys[0].defined()) return variable_list(4);
    variable_list gradients;
    {
      const at::NoGradGuard no_grad;
      gradients = gradients_of(*call, saved, dys[0], ctx);
    }
    return forbid_double_backward(std::move(gradients), call->problem.name());
  }

 private:
  static variable_list gradients_of(const Call& call, const variable_list& saved, const at::Tensor& gradient,
                                    AutogradContext* ctx) {
    const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
    const LayerScope layer(call.operands->layer());
    const GemmProblem& p = call.problem;
    const bool passes_on = ctx->needs_input_grad(0);
    const Needed needed = {.input = call.needed.input && (passes_on || call.operands->wants_input_gradient()),
                           .weight = call.needed.weight && ctx->needs_input_grad(1)};
    const at::Tensor dy = to_dense(gradient, p.channels_last());
    variable_list gradients(4);
    if (needed.input || needed.weight) {
      const BackwardOperands operands = call.operands->backward(dy, needed);
      if (needed.input) gradients[0] = bprop(p, operands.bprop, with_codes(call.w_bprop, saved[1]));
      if (needed.weight) gradients[1] = wtgrad(p, with_codes(call.x_wtgrad, saved[0]), operands.wtgrad);
      call.operands->observe_gradients(gradients[0], gradients[1]);
      if (!passes_on) gradients[0].reset();
    }
    if (call.has_bias && ctx->needs_input_grad(2))
      gradients[2] = channel_sums(p, p.dtype == at::kDouble ? gradient : dy);
    return gradients;
  }

  static QuantizedTensor with_codes(QuantizedTensor x, const at::Tensor& codes) {
    x.codes = codes;
    return x;
  }
};

at::Tensor run(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, GemmProblem problem,
               std::shared_ptr<Operands> operands) {
  auto call = c10::make_intrusive<Call>();
  call->problem = std::move(problem);
  call->operands = std::move(operands);
  const bool grad_mode = at::GradMode::is_enabled();
  call->needed.weight = grad_mode && weight.requires_grad();
  call->needed.input =
      (grad_mode && x.requires_grad()) || (call->needed.weight && call->operands->wants_input_gradient());
  const bool bias_needed = grad_mode && bias.defined() && bias.requires_grad();
  if (!call->needed.input && !call->needed.weight && !bias_needed) {
    const at::NoGradGuard no_grad;
    return forward_pass(*call, x, weight, bias);
  }
  // Autograd looks into every tensor that it is given: an undefined one must not be among them.
  return QuantizedGemms::apply(x, weight, bias.defined() ? std::optional(bias) : std::nullopt, call);
}

std::string shape_text(const at::Tensor& x) { return fmt::format("[{}]", fmt::join(x.sizes(), ", ")); }

void check_operands(const char* name, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    int64_t out_channels, Arithmetic arithmetic) {
  const auto dtype = x.scalar_type();
  require(at::isFloatingType(dtype), name, "input must be a floating type, got {}", c10::toString(dtype));
  require(weight.device() == x.device(), name, "weight is on {}, input is on {}", weight.device().str(),
          x.device().str());
  require(!bias.defined() || (bias.dim() == 1 && bias.size(0) == out_channels), name,
          "bias has shape {}, expected [{}]", bias.defined() ? shape_text(bias) : "", out_channels);
  if (arithmetic != Arithmetic::kInteger) return;
  require(x.device().is_cpu(), name,
          "integer arithmetic runs on the CPU, input is on {}; use simulated arithmetic", x.device().str());
  require(dtype == at::kFloat || dtype == at::kBFloat16, name,
          "integer arithmetic takes float32 or bfloat16 input, got {}; use simulated arithmetic",
          c10::toString(dtype));
}

// Stands in the graph behind a gradient, where differentiating it would go on.
class NoDoubleBackward : public torch::autograd::Function<NoDoubleBackward> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gradient, const at::Tensor&,
                            const std::string& operation) {
    ctx->saved_data["operation"] = operation;
    return gradient;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list&) {
    fail(ctx->saved_data["operation"].toStringRef().c_str(),
         "a quantised layer cannot be differentiated twice");
  }
};

}  // namespace

std::vector<at::Tensor> forbid_double_backward(std::vector<at::Tensor> gradients, const char* operation) {
  if (!at::GradMode::is_enabled()) return gradients;
  // A gradient depends on the weight even where it does not on dY: the node needs an input that requires
  // grad.
  const at::Tensor token = at::zeros({}).requires_grad_();
  for (at::Tensor& gradient : gradients) {
    if (gradient.defined()) gradient = NoDoubleBackward::apply(gradient, token, std::string(operation));
  }
  return gradients;
}

at::Tensor conv2d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  const ConvOptions& options, Arithmetic arithmetic, std::shared_ptr<Operands> operands) {
  if (x.numel() == 0) {
    return at::conv2d(x, weight, bias, options.stride, options.padding, options.dilation, options.groups);
  }
  GemmProblem problem = conv_problem(x.sizes(), weight.sizes(), options, arithmetic, x.scalar_type());
  check_operands("conv2d", x, weight, bias, weight.size(0), arithmetic);
  return run(x, weight, bias, std::move(problem), std::move(operands));
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  Arithmetic arithmetic, std::shared_ptr<Operands> operands) {
  if (x.numel() == 0) return at::linear(x, weight, bias);
  GemmProblem problem = linear_problem(x.sizes(), weight.sizes(), arithmetic, x.scalar_type());
  check_operands("linear", x, weight, bias, weight.size(0), arithmetic);
  const at::Tensor rows = x.reshape(problem.x_sizes);
  std::vector<int64_t> y_sizes = x.sizes().vec();
  y_sizes.back() = weight.size(0);
  return run(rows, weight, bias, std::move(problem), std::move(operands)).view(y_sizes);
}

}  // namespace bitdial::ops
