#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "bitdial/kernels/conv2d.h"
#include "bitdial/ops/gemm.h"
#include "bitdial/ops/quantized_tensor.h"

/// The three GEMMs of a layer on quantised operands, outside autograd.
namespace bitdial::ops {

/// One layer's GEMMs: what the three directions share.
struct GemmProblem {
  bool is_linear = false;
  kernels::ConvShape shape;
  ConvOptions options;
  Arithmetic arithmetic = Arithmetic::kInteger;
  at::ScalarType dtype = at::kFloat;  ///< of x, y, dX
  std::vector<int64_t> x_sizes, w_sizes, y_sizes;

  const char* name() const { return is_linear ? "linear" : "conv2d"; }
  bool channels_last() const { return !is_linear && arithmetic == Arithmetic::kInteger; }
};

/// x [N, C, H, W] by weight [K, C/groups, R, S]. Throws Error that names what does not fit.
GemmProblem conv_problem(at::IntArrayRef x_sizes, at::IntArrayRef w_sizes, const ConvOptions& options,
                         Arithmetic arithmetic, at::ScalarType dtype);
/// x [N, ..., C] by weight [K, C] as the convolution of N images of (product of the middle axes) x 1 pixels.
GemmProblem linear_problem(at::IntArrayRef x_sizes, at::IntArrayRef w_sizes, Arithmetic arithmetic,
                           at::ScalarType dtype);

/// Each writes to `out` if that is defined (dense, channels_last where it has four dimensions), else to a new
/// tensor: y and dX of the problem's type, dW in float32.
///
/// `sums`: of the stored y by output channel, for a batch norm behind (four dimensions, float32 or bfloat16).
/// `pass`: over the pixels of dX in `out`, or over its rows.
at::Tensor fprop(const GemmProblem& p, const QuantizedTensor& x, const QuantizedTensor& w,
                 const at::Tensor& bias, const kernels::ChannelSums* sums = nullptr, at::Tensor out = {});
at::Tensor bprop(const GemmProblem& p, const QuantizedTensor& dy, const QuantizedTensor& w,
                 at::Tensor out = {}, kernels::OutputPass* pass = nullptr);
at::Tensor wtgrad(const GemmProblem& p, const QuantizedTensor& x, const QuantizedTensor& dy,
                  at::Tensor out = {});

}  // namespace bitdial::ops
