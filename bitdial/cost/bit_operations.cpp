#include "bitdial/cost/bit_operations.h"

#include <cmath>

#include "bitdial/core/error.h"

namespace bitdial::cost {

double training_factor(const LayerBits& bits) {
  return bits.w * bits.x + bits.w * bits.dy_bprop + bits.x_wtgrad * bits.dy_wtgrad + bits.covariance;
}

double training_factor(double forward, double gradient) {
  return training_factor(LayerBits::shared(forward, gradient));
}

double mean_training_factor(const BitSchedule& schedule) {
  require(schedule.iterations() > 0, "cost", "a schedule without iterations has no mean cost");
  double sum = 0.0;
  for (const BitStretch& stretch : schedule.stretches())
    sum += static_cast<double>(stretch.iterations) * training_factor(stretch.forward, stretch.gradient);
  return sum / static_cast<double>(schedule.iterations());
}

double saving(const BitSchedule& schedule, const BitSchedule& reference) {
  return 1.0 - mean_training_factor(schedule) / mean_training_factor(reference);
}

double charged_macs(int64_t macs, int64_t norm_elements, int64_t pool_operations) {
  return static_cast<double>(macs + 2 * norm_elements + pool_operations);
}

double training_gbitops(double charged, double mean_factor, int64_t iterations, int64_t batch) {
  return charged * mean_factor * static_cast<double>(iterations) * static_cast<double>(batch) / 1e9;
}

double inference_gbitops(double charged, double bits, InferenceConvention convention) {
  return charged * bits * bits / (convention == InferenceConvention::kCifar ? 2.0 : 8.0) / 1e9;
}

double ldp_relative_cost(double bits, double max_bits, bool forward_only) {
  const double share = bits / max_bits;
  return forward_only ? share * share : (share * share + 2.0 * share) / 3.0;
}

double ldp_relative_cost(std::span<const double> weights, std::span<const double> bits, double max_bits,
                         bool forward_only) {
  require(!weights.empty() && weights.size() == bits.size(), "cost", "{} layers have weights, {} have bits",
          weights.size(), bits.size());
  double cost = 0.0;
  double all = 0.0;
  for (size_t l = 0; l < weights.size(); ++l) {
    cost += weights[l] * ldp_relative_cost(bits[l], max_bits, forward_only);
    all += weights[l];
  }
  return cost / all;
}

double ldp_uniform_bits(double limit, double max_bits, bool forward_only) {
  require(limit > 0.0 && limit <= 1.0, "cost", "the limit is a share of the static cost, got {}", limit);
  // Root of r^2 + 2 r = 3 limit.
  return max_bits * (forward_only ? std::sqrt(limit) : std::sqrt(1.0 + 3.0 * limit) - 1.0);
}

double fractrain_cost_percent(double weight, double activation, double gradient) {
  return 100.0 * (activation * weight + gradient * weight + activation * gradient) / kFloat32Factor;
}

double fractrain_macs(double cp, int64_t iterations, double macs) {
  return cp * static_cast<double>(iterations) * kPublishedBatch * 3.0 * macs;
}

}  // namespace bitdial::cost
