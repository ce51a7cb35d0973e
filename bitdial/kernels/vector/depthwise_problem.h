#pragma once

#include <cstdint>

#include "bitdial/kernels/conv2d.h"

/// 3x3 depth-wise convolutions of bytes: what most networks with depth-wise layers consist of.
namespace bitdial::kernels::vector {

/// Whether the kernels behind DepthwiseRows and DepthwiseGradient compute the product of these operands
/// (input and weight, output gradient and weight, or input and output gradient): 3x3 taps, stride 1 or 2,
/// channels in sixteens, a of 8 bits, b signed bytes without zero point, no real-valued offsets.
bool supports_depthwise(const ConvShape& shape, const Operand& a, const Operand& b);

/// One axis of a gathering convolution as windows of four: outputs [count * i, count * (i + 1)) read inputs
/// first + step * i + [0, 4).
struct WindowAxis {
  int64_t in = 1, out = 1;
  int64_t count = 1, step = 1, first = 0;
  int8_t tap[4][4];  ///< [output][input] of a window: the kernel's index, -1 = not read

  int64_t windows() const { return (out + count - 1) / count; }
};

/// Forward or data gradient.
struct DepthwiseRows {
  int64_t batch = 1, channels = 1;
  WindowAxis rows, cols;
  Operand input, weight;
  const float* bias = nullptr;
  Output output;
};

DepthwiseRows depthwise_forward(const ConvShape& shape, const Operand& x, const Operand& w, const float* bias,
                                const Output& y);
DepthwiseRows depthwise_backward_data(const ConvShape& shape, const Operand& dy, const Operand& w,
                                      const Output& dx);

struct DepthwiseGradient {
  ConvShape shape;
  Operand x, dy;
  float* dw = nullptr;
};

}  // namespace bitdial::kernels::vector
