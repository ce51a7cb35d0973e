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

/// A weight gradient reduces over images, at most kMost at a time, a whole number of fours; the last block
/// may be short.
struct ImageBlocks {
  static constexpr int64_t kMost = 64;
  int64_t count = 1;
  int64_t images = 4;  ///< per block

  static ImageBlocks of(int64_t batch) {
    const int64_t count = (batch + kMost - 1) / kMost;
    return {count, ((batch + count - 1) / count + 3) / 4 * 4};
  }
};

/// Some of a block's fours of images, and pixels of each.
struct GradientPart {
  int64_t block = 0;
  int64_t first_quad = 0, last_quad = 0;
  int64_t first_pixel = 0, last_pixel = 0;
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
  /// A weight of signed bytes, channels and columns in sixteens, in the layout that gather takes as
  /// Operand::packed: its output channels [first, last), from a multiple of 16 to one.
  void (*pack_weight)(const GatherProblem& problem, int64_t first, int64_t last, void* packed);
  /// dY in the layout that weight_gradient takes as Operand::packed: its size, a part of it, and what comes
  /// when all images of some pixels are there. Of `problem`, x and dw are not looked at.
  int64_t (*gradient_bytes)(const WeightGradientProblem& problem);
  void (*pack_gradient)(const WeightGradientProblem& problem, const GradientPart& part, void* packed);
  void (*finish_gradient)(const WeightGradientProblem& problem, const GradientPart& part, void* packed);
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
