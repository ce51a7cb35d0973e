#include "bitdial/kernels/amx/portable/product.h"

namespace bitdial::kernels::amx {

Product forward_product(const ConvShape& s, int64_t group, const Operand& x, const Operand& w,
                        const float* bias, const Output& y) {
  const int64_t depth = s.in_channels / s.groups;
  const int64_t columns = s.out_channels / s.groups;
  const int64_t filter = s.kernel_height * s.kernel_width * depth;
  return {.batch = s.batch,
          .in_height = s.in_height,
          .in_width = s.in_width,
          .out_height = s.out_height(),
          .out_width = s.out_width(),
          .depth = depth,
          .columns = columns,
          .in_channels = s.in_channels,
          .out_channels = s.out_channels,
          .first_depth = group * depth,
          .first_column = group * columns,
          .rows = {forward_axis(vertical(s))},
          .cols = {forward_axis(horizontal(s))},
          .a = x,
          .b = w,
          .kernel_width = s.kernel_width,
          .b_first = group * columns * filter,
          .b_column = filter,
          .b_tap = depth,
          .b_depth = 1,
          .bias = bias,
          .out = y};
}

Product backward_data_product(const ConvShape& s, int64_t group, const Operand& dy, const Operand& w,
                              const Output& dx) {
  const int64_t depth = s.out_channels / s.groups;
  const int64_t columns = s.in_channels / s.groups;
  const int64_t filter = s.kernel_height * s.kernel_width * columns;
  return {.batch = s.batch,
          .in_height = s.out_height(),
          .in_width = s.out_width(),
          .out_height = s.in_height,
          .out_width = s.in_width,
          .depth = depth,
          .columns = columns,
          .in_channels = s.out_channels,
          .out_channels = s.in_channels,
          .first_depth = group * depth,
          .first_column = group * columns,
          .rows = backward_data_axes(vertical(s)),
          .cols = backward_data_axes(horizontal(s)),
          .a = dy,
          .b = w,
          .kernel_width = s.kernel_width,
          .b_first = group * depth * filter,
          .b_column = 1,
          .b_tap = columns,
          .b_depth = filter,
          .out = dx};
}

}  // namespace bitdial::kernels::amx
