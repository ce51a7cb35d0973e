#include "bitdial/ops/gemm_problem.h"

#include <fmt/ranges.h>
#include <torch/torch.h>

#include <string>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/channel_sums.h"
#include "bitdial/kernels/output_pass.h"
#include "bitdial/ops/float_convolution.h"

namespace bitdial::ops {
namespace {

/// What a GEMM outside the integer kernels multiplies in.
at::ScalarType compute_dtype(const GemmProblem& p, const QuantizedTensor& a, const QuantizedTensor& b) {
  if (p.dtype == at::kDouble) return at::kDouble;
  return a.format.is_bfloat16() || b.format.is_bfloat16() ? at::kBFloat16 : at::kFloat;
}

// The result of a GEMM in LibTorch's arithmetic where and how the caller wants it.
at::Tensor deliver(const at::Tensor& result, at::ScalarType dtype, at::Tensor& out) {
  if (!out.defined()) return result.to(dtype);
  return out.copy_(result.view(out.sizes()));
}

kernels::Operand operand(const QuantizedTensor& x) {
  return {.codes = x.codes.const_data_ptr(), .type = code_type(container(x.format)), .params = x.params};
}

kernels::Operand packed_operand(const QuantizedTensor& x) {
  kernels::Operand result = operand(x);
  if (x.packed.defined()) result.packed = x.packed.const_data_ptr();
  return result;
}

kernels::Output output(at::Tensor& y) { return {.data = y.mutable_data_ptr(), .type = output_type(y)}; }

at::Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype) {
  const auto format = sizes.size() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  return at::empty(sizes, at::TensorOptions().dtype(dtype), format);
}

at::Tensor forward(const GemmProblem& p, const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) {
  const at::Tensor b = bias.defined() ? bias.to(x.scalar_type()) : bias;
  return p.is_linear ? at::linear(x, w, b) : float_forward(x, w, b, p.options);
}

void sum_channels(const at::Tensor& y, const kernels::ChannelSums& sums) {
  kernels::sum_channels(
      {.data = const_cast<void*>(y.const_data_ptr()), .type = output_type(y), .sums = &sums},
      y.numel() / y.size(1), y.size(1));
}

std::string shape_text(at::IntArrayRef sizes) { return fmt::format("[{}]", fmt::join(sizes, ", ")); }

}  // namespace

bool runs_on_integers(Arithmetic arithmetic, const QuantizedTensor& a, bool keeps_axis_of_a,
                      const QuantizedTensor& b, bool keeps_axis_of_b) {
  return arithmetic == Arithmetic::kInteger && a.has_codes() && b.has_codes() &&
         (keeps_axis_of_a || a.params.size() == 1) && (keeps_axis_of_b || b.params.size() == 1);
}

at::Tensor fprop(const GemmProblem& p, const QuantizedTensor& x, const QuantizedTensor& w,
                 const at::Tensor& bias, const kernels::ChannelSums* sums, at::Tensor out) {
  const PhaseScope phase(Phase::kGemm);
  if (!runs_on_integers(p.arithmetic, x, true, w, true)) {
    const at::ScalarType dtype = compute_dtype(p, x, w);
    const at::Tensor y = deliver(forward(p, dequantize(x, dtype), dequantize(w, dtype), bias), p.dtype, out);
    if (sums != nullptr) sum_channels(y, *sums);
    return y;
  }
  if (!out.defined()) out = empty(p.y_sizes, p.dtype);
  const at::Tensor b = bias.defined() ? bias.detach().to(at::kFloat).contiguous() : bias;
  kernels::Output y = output(out);
  y.sums = sums;
  kernels::conv2d_forward(p.shape, operand(x), packed_operand(w),
                          b.defined() ? b.const_data_ptr<float>() : nullptr, y);
  return out;
}

at::Tensor bprop(const GemmProblem& p, const QuantizedTensor& dy, const QuantizedTensor& w, at::Tensor out,
                 kernels::OutputPass* pass) {
  const PhaseScope phase(Phase::kGemm);
  if (!runs_on_integers(p.arithmetic, dy, true, w, false)) {
    const at::ScalarType dtype = compute_dtype(p, dy, w);
    const at::Tensor g = dequantize(dy, dtype);
    const at::Tensor values = dequantize(w, dtype);
    const at::Tensor dx =
        p.is_linear ? g.matmul(values) : float_data_gradient(g, values, p.x_sizes, p.options);
    at::Tensor delivered = deliver(dx, p.dtype, out);
    if (pass != nullptr) kernels::run_whole(*pass, dx.numel() / p.shape.in_channels);
    return delivered;
  }
  if (!out.defined()) out = empty(p.x_sizes, p.dtype);
  kernels::Output dx = output(out);
  dx.pass = pass;
  kernels::conv2d_backward_data(p.shape, operand(dy), packed_operand(w), dx);
  return out;
}

at::Tensor wtgrad(const GemmProblem& p, const QuantizedTensor& x, const QuantizedTensor& dy, at::Tensor out) {
  const PhaseScope phase(Phase::kGemm);
  if (!runs_on_integers(p.arithmetic, x, false, dy, false)) {
    const at::ScalarType dtype = compute_dtype(p, x, dy);
    const at::ScalarType master = p.dtype == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor g = dequantize(dy, dtype);
    const at::Tensor values = dequantize(x, dtype);
    if (p.is_linear) {
      const at::Tensor rows = g.reshape({-1, p.shape.out_channels});
      return deliver(rows.t().matmul(values.reshape({-1, p.shape.in_channels})), master, out);
    }
    return deliver(float_weight_gradient(g, values, p.w_sizes, p.options), master, out);
  }
  if (!out.defined()) out = empty(p.w_sizes, at::kFloat);
  kernels::conv2d_backward_weight(p.shape, operand(x), packed_operand(dy), out.mutable_data_ptr<float>());
  return out;
}

GemmProblem conv_problem(at::IntArrayRef x, at::IntArrayRef weight, const ConvOptions& options,
                         Arithmetic arithmetic, at::ScalarType dtype) {
  require(x.size() == 4, "conv2d", "input must be [N, C, H, W], got {}", shape_text(x));
  require(weight.size() == 4, "conv2d", "weight must be [K, C/groups, R, S], got {}", shape_text(weight));
  require(options.groups > 0 && x[1] % options.groups == 0, "conv2d",
          "{} input channels are not divisible by {} groups", x[1], options.groups);
  require(weight[1] * options.groups == x[1], "conv2d", "weight has {} input channels, input has {}",
          weight[1] * options.groups, x[1]);
  GemmProblem p;
  p.options = options;
  p.arithmetic = arithmetic;
  p.dtype = dtype;
  p.shape = {.batch = x[0],
             .in_channels = x[1],
             .in_height = x[2],
             .in_width = x[3],
             .out_channels = weight[0],
             .kernel_height = weight[2],
             .kernel_width = weight[3],
             .stride_height = options.stride[0],
             .stride_width = options.stride[1],
             .padding_height = options.padding[0],
             .padding_width = options.padding[1],
             .dilation_height = options.dilation[0],
             .dilation_width = options.dilation[1],
             .groups = options.groups};
  kernels::check(p.shape);
  p.x_sizes = x.vec();
  p.w_sizes = weight.vec();
  p.y_sizes = {x[0], weight[0], p.shape.out_height(), p.shape.out_width()};
  return p;
}

GemmProblem linear_problem(at::IntArrayRef x, at::IntArrayRef weight, Arithmetic arithmetic,
                           at::ScalarType dtype) {
  require(weight.size() == 2, "linear", "weight must be [K, C], got {}", shape_text(weight));
  require(!x.empty() && x.back() == weight[1], "linear", "weight has {} input features, input has {}",
          weight[1], x.empty() ? 0 : x.back());
  GemmProblem p;
  p.is_linear = true;
  p.arithmetic = arithmetic;
  p.dtype = dtype;
  p.shape.batch = x.size() > 1 ? x[0] : 1;
  p.shape.in_channels = weight[1];
  p.shape.in_height = c10::multiply_integers(x) / (p.shape.batch * p.shape.in_channels);
  p.shape.out_channels = weight[0];
  kernels::check(p.shape);
  p.x_sizes = {p.shape.batch, p.shape.in_height, p.shape.in_channels};
  p.w_sizes = weight.vec();
  p.y_sizes = {p.shape.batch, p.shape.in_height, p.shape.out_channels};
  return p;
}

}  // namespace bitdial::ops
