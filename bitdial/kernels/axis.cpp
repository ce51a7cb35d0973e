#include "bitdial/kernels/axis.h"

#include <algorithm>

namespace bitdial::kernels {

AxisShape vertical(const ConvShape& s) {
  return {s.in_height, s.out_height(), s.kernel_height, s.stride_height, s.padding_height, s.dilation_height};
}

AxisShape horizontal(const ConvShape& s) {
  return {s.in_width, s.out_width(), s.kernel_width, s.stride_width, s.padding_width, s.dilation_width};
}

Axis forward_axis(const AxisShape& shape) {
  Axis axis{.positions = shape.out, .in_step = shape.stride, .in_size = shape.in};
  for (int64_t k = 0; k < shape.kernel; ++k) axis.taps.push_back({k * shape.dilation - shape.padding, k});
  return axis;
}

std::vector<Axis> backward_data_axes(const AxisShape& shape) {
  std::vector<Axis> axes;
  for (int64_t residue = 0; residue < std::min(shape.stride, shape.in); ++residue) {
    Axis axis{.positions = (shape.in - residue + shape.stride - 1) / shape.stride,
              .out_first = residue,
              .out_step = shape.stride,
              .in_size = shape.out};
    for (int64_t k = shape.kernel - 1; k >= 0; --k) {
      const int64_t reach = residue + shape.padding - k * shape.dilation;
      if (reach % shape.stride == 0) axis.taps.push_back({reach / shape.stride, k});
    }
    axes.push_back(std::move(axis));
  }
  return axes;
}

}  // namespace bitdial::kernels
