#include "bitdial/policies/ldp_rule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "bitdial/core/error.h"

namespace bitdial::policies::ldp {
namespace {

constexpr double kSmallestStep = 1e-8;  // of SBM's code, as of core/format.h
constexpr double kEpsilon = 1e-8;       // keeps the penalty finite; not in print

double largest_code(int bits) { return std::ldexp(1.0, bits) - 1.0; }

}  // namespace

int bits_of(double beta, BitRange range) {
  const double bits = std::nearbyint(beta * range.width() + range.min);
  return static_cast<int>(std::clamp<double>(bits, range.min, range.max));
}

double step_of(double range, int bits) { return std::max(range / largest_code(bits), kSmallestStep); }

double step_by_bits(double step, int bits) {
  if (step <= kSmallestStep) return 0.0;  // as a float32 the floor lies just below
  return -step * std::numbers::ln2 * std::ldexp(1.0, bits) / largest_code(bits);
}

BetaGradient beta_gradient(std::span<const double> x, std::span<const double> upstream, double beta,
                           BitRange range) {
  require(!x.empty() && x.size() == upstream.size(), "ldp", "{} values have {} gradients", x.size(),
          upstream.size());
  const auto [low, high] = std::ranges::minmax(x);
  BetaGradient result;
  result.bits = bits_of(beta, range);
  result.step = step_of(high - low, result.bits);
  const double last = largest_code(result.bits);
  for (size_t i = 0; i < x.size(); ++i) {
    const double u = (x[i] - low) / result.step;
    const double q = std::nearbyint(std::clamp(u, 0.0, last));
    result.loss_by_step += upstream[i] * (q - u);
  }
  result.step_by_bits = step_by_bits(result.step, result.bits);
  result.loss_by_beta = result.loss_by_step * result.step_by_bits * range.width();
  return result;
}

double relative_cost(int bits, int max_bits, int gradient_bits, CostScope scope) {
  const double b = bits, most = max_bits, g = gradient_bits;
  if (scope == CostScope::kForward) return b * b / (most * most);
  return (b * b + 2.0 * b * g) / (most * most + 2.0 * most * g);
}

double cost_gradient(double share, int bits, BitRange range, CostGradient form) {
  return form == CostGradient::kStructure ? share : share * 2.0 * bits * range.width() / 1024.0;
}

std::vector<double> penalty(std::span<const double> cost_gradients, double mean_gradient, double alpha) {
  double mean = 0.0;
  for (const double gradient : cost_gradients) {
    mean += std::fabs(gradient) / static_cast<double>(cost_gradients.size());
  }
  std::vector<double> penalties;
  penalties.reserve(cost_gradients.size());
  for (const double gradient : cost_gradients) {
    penalties.push_back(alpha * gradient * mean_gradient / (mean + kEpsilon));
  }
  return penalties;
}

double epoch_reset(double beta) {
  if (beta > 1.1) return 1.0;
  return beta < -0.1 ? 0.0 : beta;
}

}  // namespace bitdial::policies::ldp
