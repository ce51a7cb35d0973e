#pragma once

#include "bitdial/kernels/conv2d_kernels.h"
#include "bitdial/kernels/isa.h"

/// Depth-wise convolutions (groups == in_channels == out_channels) in integers: every channel is its own
/// small convolution, so the kernels are vectorised over the channels of NHWC. Contract: conv2d.h.
namespace bitdial::kernels::depthwise {

/// Whether these kernels run the problem on `isa`: depth-wise, multiplier 1, at most 256 taps, AVX2 or
/// better.
bool supports(const ConvShape& shape, Isa isa);

/// On active_isa(), which must support the problem.
extern const Conv2dKernels kConv2d;

}  // namespace bitdial::kernels::depthwise
