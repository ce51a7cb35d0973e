#pragma once

namespace bitdial {

/// The word lengths of one layer's operands in one training step; 32: float32, or a grid above 24 bits.
struct LayerBits {
  double w = 32.0;
  double x = 32.0;         ///< of FPROP
  double x_wtgrad = 32.0;  ///< of WTGRAD
  double dy_bprop = 32.0;
  double dy_wtgrad = 32.0;
  /// Where lengths are means over samples: mean of x_wtgrad * dy_wtgrad less the product of their means.
  double covariance = 0.0;

  bool operator==(const LayerBits&) const = default;

  /// One length for W and X, one for both gradients.
  static LayerBits shared(double forward, double gradient) {
    return {.w = forward, .x = forward, .x_wtgrad = forward, .dy_bprop = gradient, .dy_wtgrad = gradient};
  }
};

}  // namespace bitdial
