#pragma once

#include <ATen/core/Tensor.h>

#include "bitdial/ops/gemm.h"

/// LibTorch's convolution in a floating-point type, one GEMM at a time: what layers run outside the integer
/// kernels, and what cost/ times. x[N, C, H, W], w[K, C/groups, R, S], dy[N, K, OH, OW], of one type.
namespace bitdial::ops {

/// `bias` may be undefined.
at::Tensor float_forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias,
                         const ConvOptions& options);

/// dX, in dy's memory order.
at::Tensor float_data_gradient(const at::Tensor& dy, const at::Tensor& w, at::IntArrayRef x_sizes,
                               const ConvOptions& options);

/// dW, in dy's memory order.
at::Tensor float_weight_gradient(const at::Tensor& dy, const at::Tensor& x, at::IntArrayRef w_sizes,
                                 const ConvOptions& options);

}  // namespace bitdial::ops
