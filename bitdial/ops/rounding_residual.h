#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <vector>

#include "bitdial/ops/quantized_tensor.h"

/// What a learnable step size needs: how far rounding moved each element, and the sums that make dL/ds.
namespace bitdial::ops {

/// q - u with u = (x - offset) / step, the two operations of core/quantizer.h: float32 in the memory order of
/// x. `quantized` holds x's codes, in the same order.
at::Tensor rounding_residual(const at::Tensor& x, const QuantizedTensor& quantized);

/// A residual as int8 in steps of 1/254; values outside [-1/2, 1/2] (saturated elements) clip.
at::Tensor pack_residual(const at::Tensor& residual);

/// dL/ds of each scale: the sum of gradient * residual over the elements that share it, in float64 over a
/// partition that does not depend on the number of threads. `residual` as rounding_residual or pack_residual
/// made it; `scales` divides dimension 0.
std::vector<double> step_gradients(const at::Tensor& gradient, const at::Tensor& residual, size_t scales);

}  // namespace bitdial::ops
