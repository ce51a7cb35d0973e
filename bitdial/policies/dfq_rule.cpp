#include "bitdial/policies/dfq_rule.h"

#include <numeric>

#include "bitdial/core/error.h"

namespace bitdial::policies::dfq {

OptionCost cost_of(Option option, int weight_bits) {
  const double a = option.activation / 32.0, g = option.gradient / 32.0, w = weight_bits / 32.0;
  return {.forward = a * w, .error = g * w, .gradient = a * g};
}

double cost_percent(Option option, int weight_bits) {
  return 100.0 * cost_of(option, weight_bits).sum() / 3.0;
}

double BlockSizes::sum() const { return std::accumulate(sizes.begin(), sizes.end(), 0.0); }

double depthwise_cost(double macs) { return macs * cost_of({.activation = 8, .gradient = 16}, 8).sum(); }

double cost_percent(std::span<const double> samples, std::span<const Option> options, int weight_bits,
                    double batch, const BlockSizes& blocks) {
  require(!samples.empty() && samples.size() == blocks.sizes.size() * options.size(), "dfq",
          "{} choices cannot belong to {} blocks of {} options", samples.size(), blocks.sizes.size(),
          options.size());
  double cost = batch * blocks.constant;
  for (size_t i = 0; i < samples.size(); ++i) {
    const Option option = options[i % options.size()];
    cost += samples[i] * cost_of(option, weight_bits).sum() * blocks.sizes[i / options.size()];
  }
  return 100.0 * cost / (batch * (3.0 * blocks.sum() + blocks.constant));
}

double sign_of(double cost, double target, double relax, Middle middle) {
  if (cost >= target + relax) return 1.0;
  if (middle == Middle::kZero) return cost < target ? -1.0 : 0.0;
  if (cost < target - relax) return -1.0;
  return cost < target ? -0.1 : 0.1;
}

}  // namespace bitdial::policies::dfq
