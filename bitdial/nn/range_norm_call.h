#pragma once

#include <ATen/core/Tensor.h>

#include "bitdial/core/random.h"

namespace bitdial::nn {

/// How Range BN's output gradient is quantised (SBM: extremes of the tensor, stochastic rounding); 0 bits:
/// not at all.
struct GradientQuantizer {
  int bits = 0;
  RandomKey key;
  at::Tensor operator()(const at::Tensor& gradient) const;
};

/// One batch through Range BN in training: its statistics, and what the way back needs.
struct RangeNormCall {
  at::Tensor x;            ///< [N, C, H, W]; on the CPU in float32 dense channels_last
  at::Tensor mean, sigma;  ///< [C]
  at::Tensor divisor;      ///< [C], sigma + eps
  at::Tensor top, bottom;  ///< [chunks, C], the rows (of N*H*W) of each chunk's extremes
  int64_t chunks = 16;
  GradientQuantizer quantizer;

  RangeNormCall() = default;
  RangeNormCall(const at::Tensor& x, double eps, int64_t chunks, const GradientQuantizer& quantizer);

  /// gamma / divisor, [C] in x's type.
  at::Tensor scale(const at::Tensor& gamma) const;
  /// gamma (x - mean) / divisor + beta.
  at::Tensor apply(const at::Tensor& gamma, const at::Tensor& beta) const;

  struct Gradients {
    at::Tensor x, gamma, beta;
  };
  /// dx_i = gamma (g_i - mean g) / S - gamma (sum_j g_j out_j) / S * dS/dx_i with dS/dx_i = +-c/K at the
  /// extremes.
  Gradients backward(const at::Tensor& gradient, const at::Tensor& gamma) const;
};

}  // namespace bitdial::nn
