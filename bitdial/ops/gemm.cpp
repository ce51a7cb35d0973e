#include "bitdial/ops/gemm.h"

#include <ATen/autocast_mode.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <optional>
#include <utility>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/kernels/conv2d.h"
#include "bitdial/ops/column_sums.h"

namespace bitdial::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// One layer's GEMMs: what the three directions share.
struct Problem {
  bool is_linear = false;
  kernels::ConvShape shape;
  ConvOptions options;
  Arithmetic arithmetic = Arithmetic::kInteger;
  at::ScalarType dtype = at::kFloat;  // of x, y, dX
  std::vector<int64_t> x_sizes, w_sizes, y_sizes;

  const char* name() const { return is_linear ? "linear" : "conv2d"; }
  bool channels_last() const { return !is_linear && arithmetic == Arithmetic::kInteger; }

  /// What a GEMM outside the integer kernels multiplies in.
  at::ScalarType compute_dtype(const QuantizedTensor& a, const QuantizedTensor& b) const {
    if (dtype == at::kDouble) return at::kDouble;
    return a.format.is_bfloat16() || b.format.is_bfloat16() ? at::kBFloat16 : at::kFloat;
  }
};

kernels::Operand operand(const QuantizedTensor& x) {
  return {.codes = x.codes.const_data_ptr(), .type = code_type(container(x.format)), .params = x.params};
}

kernels::Output output(at::Tensor& y) {
  return {.data = y.mutable_data_ptr(),
          .type = y.scalar_type() == at::kBFloat16 ? kernels::OutputType::kBFloat16
                                                   : kernels::OutputType::kFloat32};
}

at::Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype) {
  const auto format = sizes.size() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  return at::empty(sizes, at::TensorOptions().dtype(dtype), format);
}

at::Tensor float_forward(const Problem& p, const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) {
  const at::Tensor b = bias.defined() ? bias.to(x.scalar_type()) : bias;
  if (p.is_linear) return at::linear(x, w, b);
  return at::convolution(x, w, b, p.options.stride, p.options.padding, p.options.dilation, false, {0, 0},
                         p.options.groups);
}

at::Tensor fprop(const Problem& p, const QuantizedTensor& x, const QuantizedTensor& w,
                 const at::Tensor& bias) {
  if (!runs_on_integers(p.arithmetic, x, true, w, true)) {
    const at::ScalarType dtype = p.compute_dtype(x, w);
    return float_forward(p, dequantize(x, dtype), dequantize(w, dtype), bias).to(p.dtype);
  }
  at::Tensor y = empty(p.y_sizes, p.dtype);
  const at::Tensor b = bias.defined() ? bias.detach().to(at::kFloat).contiguous() : bias;
  kernels::conv2d_forward(p.shape, operand(x), operand(w), b.defined() ? b.const_data_ptr<float>() : nullptr,
                          output(y));
  return y;
}

// One direction of LibTorch's convolution backward. Of the operand that this direction does not read only the
// sizes and the memory order matter.
at::Tensor float_convolution_backward(const Problem& p, const at::Tensor& dy, const at::Tensor& x,
                                      const at::Tensor& w, int direction) {
  const std::array<bool, 3> mask = {direction == 0, direction == 1, false};
  const auto gradients = at::convolution_backward(dy, x, w, std::nullopt, p.options.stride, p.options.padding,
                                                  p.options.dilation, false, {0, 0}, p.options.groups, mask);
  return direction == 0 ? std::get<0>(gradients) : std::get<1>(gradients);
}

at::Tensor bprop(const Problem& p, const QuantizedTensor& dy, const QuantizedTensor& w) {
  if (!runs_on_integers(p.arithmetic, dy, true, w, false)) {
    const at::ScalarType dtype = p.compute_dtype(dy, w);
    const at::Tensor g = dequantize(dy, dtype);
    const at::Tensor values = dequantize(w, dtype);
    if (p.is_linear) return g.matmul(values).to(p.dtype);
    const at::Tensor x = at::empty(p.x_sizes, g.options(), g.suggest_memory_format());
    return float_convolution_backward(p, g, x, values, 0).to(p.dtype);
  }
  at::Tensor dx = empty(p.x_sizes, p.dtype);
  kernels::conv2d_backward_data(p.shape, operand(dy), operand(w), output(dx));
  return dx;
}

at::Tensor wtgrad(const Problem& p, const QuantizedTensor& x, const QuantizedTensor& dy) {
  if (!runs_on_integers(p.arithmetic, x, false, dy, false)) {
    const at::ScalarType dtype = p.compute_dtype(x, dy);
    const at::ScalarType master = p.dtype == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor g = dequantize(dy, dtype);
    const at::Tensor values = dequantize(x, dtype);
    if (p.is_linear) {
      const at::Tensor rows = g.reshape({-1, p.shape.out_channels});
      return rows.t().matmul(values.reshape({-1, p.shape.in_channels})).to(master);
    }
    const at::Tensor w = at::empty(p.w_sizes, g.options(), g.suggest_memory_format());
    return float_convolution_backward(p, g, values, w, 1).to(master);
  }
  at::Tensor dw = empty(p.w_sizes, at::kFloat);
  kernels::conv2d_backward_weight(p.shape, operand(x), operand(dy), dw.mutable_data_ptr<float>());
  return dw;
}

// The bias's gradient: the sum over everything but the channel.
at::Tensor channel_sums(const Problem& p, const at::Tensor& dy) {
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

variable_list forbid_double_backward(variable_list gradients, const char* operation) {
  // A gradient depends on the weight even where it does not on dY: the node needs an input that requires
  // grad.
  const at::Tensor token = at::zeros({}).requires_grad_();
  for (at::Tensor& gradient : gradients) {
    if (gradient.defined()) gradient = NoDoubleBackward::apply(gradient, token, std::string(operation));
  }
  return gradients;
}

// What forward leaves for backward besides the codes, which autograd saves as tensors.
struct Call : torch::CustomClassHolder {
  Problem problem;
  Needed needed;
  bool has_bias = false;
  std::shared_ptr<Operands> operands;
  QuantizedTensor x_wtgrad;  // without codes
  QuantizedTensor w_bprop;   // without codes
};

at::Tensor take_codes(QuantizedTensor& x) { return std::exchange(x.codes, at::Tensor()); }

at::Tensor forward_pass(Call& call, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const Problem& p = call.problem;
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
    if (at::GradMode::is_enabled()) return forbid_double_backward(gradients, call->problem.name());
    return gradients;
  }

 private:
  static variable_list gradients_of(const Call& call, const variable_list& saved, const at::Tensor& gradient,
                                    AutogradContext* ctx) {
    const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
    const Problem& p = call.problem;
    const Needed needed = {.input = call.needed.input && ctx->needs_input_grad(0),
                           .weight = call.needed.weight && ctx->needs_input_grad(1)};
    const at::Tensor dy = to_dense(gradient, p.channels_last());
    variable_list gradients(4);
    if (needed.input || needed.weight) {
      const BackwardOperands operands = call.operands->backward(dy, needed);
      if (needed.input) gradients[0] = bprop(p, operands.bprop, with_codes(call.w_bprop, saved[1]));
      if (needed.weight) gradients[1] = wtgrad(p, with_codes(call.x_wtgrad, saved[0]), operands.wtgrad);
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

at::Tensor run(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Problem problem,
               std::shared_ptr<Operands> operands) {
  auto call = c10::make_intrusive<Call>();
  call->problem = std::move(problem);
  call->operands = std::move(operands);
  const bool grad_mode = at::GradMode::is_enabled();
  call->needed = {.input = grad_mode && x.requires_grad(), .weight = grad_mode && weight.requires_grad()};
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

Problem conv_problem(const at::Tensor& x, const at::Tensor& weight, const ConvOptions& options) {
  require(x.dim() == 4, "conv2d", "input must be [N, C, H, W], got {}", shape_text(x));
  require(weight.dim() == 4, "conv2d", "weight must be [K, C/groups, R, S], got {}", shape_text(weight));
  require(options.groups > 0 && x.size(1) % options.groups == 0, "conv2d",
          "{} input channels are not divisible by {} groups", x.size(1), options.groups);
  require(weight.size(1) * options.groups == x.size(1), "conv2d",
          "weight has {} input channels, input has {}", weight.size(1) * options.groups, x.size(1));
  Problem p;
  p.options = options;
  p.shape = {.batch = x.size(0),
             .in_channels = x.size(1),
             .in_height = x.size(2),
             .in_width = x.size(3),
             .out_channels = weight.size(0),
             .kernel_height = weight.size(2),
             .kernel_width = weight.size(3),
             .stride_height = options.stride[0],
             .stride_width = options.stride[1],
             .padding_height = options.padding[0],
             .padding_width = options.padding[1],
             .dilation_height = options.dilation[0],
             .dilation_width = options.dilation[1],
             .groups = options.groups};
  kernels::check(p.shape);
  p.y_sizes = {x.size(0), weight.size(0), p.shape.out_height(), p.shape.out_width()};
  return p;
}

// x [N, ..., C] as the convolution of N images of (product of the middle axes) x 1 pixels.
Problem linear_problem(const at::Tensor& x, const at::Tensor& weight) {
  require(weight.dim() == 2, "linear", "weight must be [K, C], got {}", shape_text(weight));
  require(x.dim() >= 1 && x.size(-1) == weight.size(1), "linear",
          "weight has {} input features, input has {}", weight.size(1), x.dim() >= 1 ? x.size(-1) : 0);
  Problem p;
  p.is_linear = true;
  p.shape.batch = x.dim() > 1 ? x.size(0) : 1;
  p.shape.in_channels = weight.size(1);
  p.shape.in_height = x.numel() / (p.shape.batch * p.shape.in_channels);
  p.shape.out_channels = weight.size(0);
  kernels::check(p.shape);
  p.y_sizes = {p.shape.batch, p.shape.in_height, p.shape.out_channels};
  return p;
}

}  // namespace

bool runs_on_integers(Arithmetic arithmetic, const QuantizedTensor& a, bool keeps_axis_of_a,
                      const QuantizedTensor& b, bool keeps_axis_of_b) {
  return arithmetic == Arithmetic::kInteger && a.has_codes() && b.has_codes() &&
         (keeps_axis_of_a || a.params.size() == 1) && (keeps_axis_of_b || b.params.size() == 1);
}

at::Tensor conv2d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  const ConvOptions& options, Arithmetic arithmetic, std::shared_ptr<Operands> operands) {
  if (x.numel() == 0) {
    return at::conv2d(x, weight, bias, options.stride, options.padding, options.dilation, options.groups);
  }
  Problem problem = conv_problem(x, weight, options);
  check_operands("conv2d", x, weight, bias, weight.size(0), arithmetic);
  problem.arithmetic = arithmetic;
  problem.dtype = x.scalar_type();
  problem.x_sizes = x.sizes().vec();
  problem.w_sizes = weight.sizes().vec();
  return run(x, weight, bias, std::move(problem), std::move(operands));
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  Arithmetic arithmetic, std::shared_ptr<Operands> operands) {
  if (x.numel() == 0) return at::linear(x, weight, bias);
  Problem problem = linear_problem(x, weight);
  check_operands("linear", x, weight, bias, weight.size(0), arithmetic);
  problem.arithmetic = arithmetic;
  problem.dtype = x.scalar_type();
  const at::Tensor rows =
      x.reshape({problem.shape.batch, problem.shape.in_height, problem.shape.in_channels});
  problem.x_sizes = rows.sizes().vec();
  problem.w_sizes = weight.sizes().vec();
  std::vector<int64_t> y_sizes = x.sizes().vec();
  y_sizes.back() = weight.size(0);
  return run(rows, weight, bias, std::move(problem), std::move(operands)).view(y_sizes);
}

}  // namespace bitdial::ops
