#include "bitdial/kernels/vector/conv2d.h"

#include <utility>

#include "bitdial/kernels/isa.h"

namespace bitdial::kernels::vector {
namespace {

ConvAxis row_axis(const ConvShape& s) {
  return {s.in_height, s.out_height(), s.kernel_height, s.stride_height, s.padding_height, s.dilation_height};
}

ConvAxis column_axis(const ConvShape& s) {
  return {s.in_width, s.out_width(), s.kernel_width, s.stride_width, s.padding_width, s.dilation_width};
}

/// A kernel of one tap without padding reads only every stride-th coordinate: leave the others out.
int64_t drop_skipped(ConvAxis& axis) {
  if (axis.kernel != 1 || axis.padding != 0) return 1;
  axis.in = axis.out;
  return std::exchange(axis.stride, 1);
}

}  // namespace

const Engine* active_engine() {
  switch (active_isa()) {
    case Isa::kScalar:
      return nullptr;
    case Isa::kAvx2:
      return avx2::kEngine;
    case Isa::kAvxVnni:
      return avxvnni::kEngine;
    case Isa::kAvx512Vnni:
    case Isa::kAmx:
      return avx512vnni::kEngine;
  }
  return nullptr;
}

GatherProblem forward_gather(const ConvShape& s) {
  ConvAxis rows = row_axis(s);
  ConvAxis cols = column_axis(s);
  GatherProblem problem;
  problem.batch = s.batch;
  problem.channels = s.in_channels / s.groups;
  problem.columns = s.out_channels / s.groups;
  problem.image_stride = s.in_height * s.in_width * s.in_channels;
  problem.row_stride = s.in_width * s.in_channels * drop_skipped(rows);
  problem.column_stride = s.in_channels * drop_skipped(cols);
  problem.rows = forward_taps(rows);
  problem.cols = forward_taps(cols);
  problem.weight_channel = 1;
  problem.weight_col = problem.channels;
  problem.weight_row = s.kernel_width * problem.weight_col;
  problem.weight_column = s.kernel_height * problem.weight_row;
  problem.output_stride = s.out_channels;
  return problem;
}

void forward(const Engine& engine, const ConvShape& s, const Operand& x, const Operand& w, const float* bias,
             const Output& y) {
  GatherProblem problem = forward_gather(s);
  problem.input = x;
  problem.weight = w;
  problem.output = y;
  for (int64_t group = 0; group < s.groups; ++group) {
    problem.input_first = group * problem.channels;
    problem.first_param = problem.output_first = group * problem.columns;
    problem.weight_first = problem.output_first * problem.weight_column;
    problem.bias = bias ? bias + problem.output_first : nullptr;
    engine.gather(problem);
  }
}

GatherProblem backward_gather(const ConvShape& s) {
  GatherProblem problem;
  problem.batch = s.batch;
  problem.channels = s.out_channels / s.groups;
  problem.columns = s.in_channels / s.groups;
  problem.column_stride = s.out_channels;
  problem.row_stride = s.out_width() * problem.column_stride;
  problem.image_stride = s.out_height() * problem.row_stride;
  problem.rows = backward_taps(row_axis(s));
  problem.cols = backward_taps(column_axis(s));
  problem.weight_column = 1;
  problem.weight_col = problem.columns;
  problem.weight_row = s.kernel_width * problem.weight_col;
  problem.weight_channel = s.kernel_height * problem.weight_row;
  problem.output_stride = s.in_channels;
  return problem;
}

void backward_data(const Engine& engine, const ConvShape& s, const Operand& dy, const Operand& w,
                   const Output& dx) {
  GatherProblem problem = backward_gather(s);
  problem.input = dy;
  problem.weight = w;
  problem.output = dx;
  if (s.groups > 1) problem.output.pass = nullptr;  // no group stores whole pixels
  for (int64_t group = 0; group < s.groups; ++group) {
    problem.input_first = group * problem.channels;
    problem.output_first = group * problem.columns;
    problem.weight_first = problem.input_first * problem.weight_channel;
    engine.gather(problem);
  }
}

WeightGradientProblem weight_gradient(const ConvShape& s) {
  ConvAxis rows = row_axis(s);
  ConvAxis cols = column_axis(s);
  WeightGradientProblem problem;
  problem.batch = s.batch;
  problem.channels = s.in_channels / s.groups;
  problem.columns = s.out_channels / s.groups;
  problem.x_image = s.in_height * s.in_width * s.in_channels;
  problem.x_row = s.in_width * s.in_channels * drop_skipped(rows);
  problem.x_column = s.in_channels * drop_skipped(cols);
  problem.rows = forward_taps(rows);
  problem.cols = forward_taps(cols);
  problem.dy_pixel = s.out_channels;
  return problem;
}

void backward_weight(const Engine& engine, const ConvShape& s, const Operand& x, const Operand& dy,
                     float* dw) {
  WeightGradientProblem problem = weight_gradient(s);
  problem.x = x;
  problem.dy = dy;
  for (int64_t group = 0; group < s.groups; ++group) {
    problem.x_first = group * problem.channels;
    problem.dy_first = group * problem.columns;
    problem.dw = dw + problem.dy_first * s.kernel_height * s.kernel_width * problem.channels;
    engine.weight_gradient(problem);
  }
}

}  // namespace bitdial::kernels::vector
