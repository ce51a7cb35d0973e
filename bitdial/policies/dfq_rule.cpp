#include "bitdial/policies/dfq_rule.h"

#include "bitdial/core/error.h"

namespace bitdial::policies::dfq {

OptionCost cost_of(Option option, int weight_bits) {
  const double a = option.activation / 32.0, g = option.gradient / 32.0, w = weight_bits / 32.0;
  return {.forward = a * w, .error = g * w, .gradient = a * g};
}

double cost_percent(Option option, int weight_bits) {
  return 100.0 * cost_of(option, weight_bits).sum() / 3.0;
}

double cost_percent(std::span<const double> samples, std::span<const Option> options, int weight_bits,
                    double batch) {
  require(!options.empty() && !samples.empty() && samples.size() % options.size() == 0, "dfq",
          "{} choices cannot belong to blocks of {} options", samples.size(), options.size());
  double cost = 0.0;
  for (size_t i = 0; i < samples.size(); ++i) {
    cost += samples[i] * cost_of(options[i % options.size()], weight_bits).sum();
  }
  const auto blocks = static_cast<double>(samples.size() / options.size());
  return 100.0 * cost / (batch * 3.0 * blocks);
}

double sign_of(double cost, double target, double relax, Middle middle) {
  if (cost >= target + relax) return 1.0;
  if (middle == Middle::kZero) return cost < target ? -1.0 : 0.0;
  if (cost < target - relax) return -1.0;
  return cost < target ? -0.1 : 0.1;
}

}  // namespace bitdial::policies::dfq
