#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bitdial/core/format.h"

/// The arithmetic of LDP (Yu et al., "LDP: Learnable Dynamic Precision for Efficient Deep Neural Network
/// Training and Inference", 2022, arXiv 2203.07713): bits from beta, the gradient of beta, and the penalty
/// on cost.
namespace bitdial::policies::ldp {

/// [Bmin, Bmax] of one network.
struct BitRange {
  int min = 3;
  int max = 8;
  int width() const { return max - min; }  ///< N
};

/// clamp(rne(beta N + Bmin), Bmin, Bmax): beta = 0 is Bmin, beta = 1 is Bmax.
int bits_of(double beta, BitRange range);

/// Eq. 1: s = R / (2^bits - 1), at least 1e-8.
double step_of(double range, int bits);

/// ds/dbits for a step made at `bits`: -R ln2 2^bits / (2^bits - 1)^2, R and the zero point constant; 0 where
/// the step is at its floor.
double step_by_bits(double step, int bits);

/// Everything between one tensor with one range and the gradient of its beta.
struct BetaGradient {
  int bits = 0;
  double step = 0.0;
  double loss_by_step = 0.0;  ///< dL/ds = sum upstream (q - u): straight-through rounding, nothing masked
  double step_by_bits = 0.0;
  double loss_by_beta = 0.0;  ///< dL/ds ds/dbits N
};

/// The definition in float64 that training follows in float32: x of one tensor, the loss's gradient by the
/// quantised x. Both of one size, not empty.
BetaGradient beta_gradient(std::span<const double> x, std::span<const double> upstream, double beta,
                           BitRange range);

/// Which products of a step the limit counts: FPROP and the two backward ones (the code), or FPROP (the
/// paper's text).
enum class CostScope : uint8_t { kForwardBackward, kForward };

/// A layer's cost relative to Bmax: (b^2 + 2 b g) / (Bmax^2 + 2 Bmax g), with g = Bmax the code's
/// ((b/Bmax)^2 + 2 b/Bmax) / 3; in kForward (b/Bmax)^2.
double relative_cost(int bits, int max_bits, int gradient_bits, CostScope scope);

/// dC/dbeta up to a common factor: the layer's share of the MACs (the code; "available once the network
/// structure is fixed"), or the derivative of eq. 4, share * 2 bits N / 1024.
enum class CostGradient : uint8_t { kStructure, kEquation4 };
double cost_gradient(double share, int bits, BitRange range, CostGradient form);

/// Eq. 5's penalty per layer: alpha G_C mean_gradient / (mean(G_C) + 1e-8). With alpha = 1 its mean is
/// mean_gradient.
std::vector<double> penalty(std::span<const double> cost_gradients, double mean_gradient, double alpha);

/// At the end of an epoch: beta > 1.1 becomes 1, beta < -0.1 becomes 0.
double epoch_reset(double beta);

}  // namespace bitdial::policies::ldp
