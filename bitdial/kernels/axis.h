#pragma once

#include <cstdint>
#include <vector>

#include "bitdial/kernels/conv2d.h"

/// Forward and data gradient as one loop: along each image axis, output coordinate out_first + j * out_step
/// sums over taps of input coordinate j * in_step + offset.
namespace bitdial::kernels {

struct AxisTap {
  int64_t offset = 0;
  int64_t kernel = 0;  ///< index along the kernel's axis
};

struct Axis {
  int64_t positions = 0;
  int64_t out_first = 0, out_step = 1;
  int64_t in_step = 1, in_size = 0;
  std::vector<AxisTap> taps = {};  ///< ascending offsets

  int64_t input(int64_t position, const AxisTap& tap) const { return position * in_step + tap.offset; }
  bool inside(int64_t coordinate) const { return coordinate >= 0 && coordinate < in_size; }
};

/// One image axis of a convolution.
struct AxisShape {
  int64_t in = 1, out = 1, kernel = 1, stride = 1, padding = 0, dilation = 1;
};

AxisShape vertical(const ConvShape& shape);
AxisShape horizontal(const ConvShape& shape);

Axis forward_axis(const AxisShape& shape);

/// One axis per residue of the input coordinate modulo the stride: with stride 2 an even and an odd one, each
/// a convolution of stride 1 with the taps of its parity.
std::vector<Axis> backward_data_axes(const AxisShape& shape);

}  // namespace bitdial::kernels
