#pragma once

#include <cstdint>

#include "bitdial/kernels/conv2d.h"
#include "bitdial/kernels/vector/depthwise_problem.h"
#include "bitdial/kernels/vector/taps.h"

/// What the vector kernels compute, one group of channels at a time.
namespace bitdial::kernels::vector {

/// One group of a gathering convolution. Strides count elements.
struct GatherProblem {
  int64_t batch = 1;
  int64_t channels = 1;  ///< reduced, per group
  int64_t columns = 1;   ///< output channels, per group
  TapAxis rows, cols;

  Operand input;
  int64_t input_first = 0, image_stride = 0, row_stride = 0, column_stride = 0;

  Operand weight;
  int64_t weight_first = 0, weight_column = 0, weight_row = 0, weight_col = 0, weight_channel = 0;

  const float* bias = nullptr;
  Output output;
  int64_t output_first = 0, output_stride = 0;  ///< of output pixels

  /// The parameters of output column k's weights.
  const QuantParams& weight_params(int64_t k) const {
    return weight.params[weight.params.size() == 1 ? 0 : static_cast<size_t>(first_param + k)];
  }
  int64_t first_param = 0;
};

/// One group of a weight gradient: dw[k][r][q][c] = sum over output pixels of x[pixel's tap (r, q)][c] *
/// dy[pixel][k]. Strides count elements.
struct WeightGradientProblem {
  int64_t batch = 1;
  int64_t channels = 1;  ///< of x, per group
  int64_t columns = 1;   ///< output channels, per group
  TapAxis rows, cols;

  Operand x;
  int64_t x_first = 0, x_image = 0, x_row = 0, x_column = 0;

  Operand dy;
  int64_t dy_first = 0, dy_pixel = 0;

  float* dw = nullptr;
};

/// The kernels of one instruction set.
struct Engine {
  void (*gather)(const GatherProblem& problem);
  void (*weight_gradient)(const WeightGradientProblem& problem);
  /// Adds to sums and squares (rounded up to whole vectors, as is `shift`) what Output::sums asks for, over
  /// `pixels` neighbouring pixels.
  void (*sum_floats)(const float* y, int64_t pixels, int64_t channels, const float* shift, double* sums,
                     double* squares);
  void (*sum_halves)(const uint16_t* y, int64_t pixels, int64_t channels, const float* shift, double* sums,
                     double* squares);
  void (*depthwise_rows)(const DepthwiseRows& problem);
  void (*depthwise_gradient)(const DepthwiseGradient& problem);
};

}  // namespace bitdial::kernels::vector
