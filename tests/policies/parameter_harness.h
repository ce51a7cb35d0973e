#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bitdial/core/quantizer.h"
#include "bitdial/core/random.h"
#include "vector_probe.h"

namespace bitdial::testing {

/// Runs a parameter rule as the training loop does, on vectors and without an optimiser.
class ParameterHarness {
 public:
  ParameterHarness(Policy& policy, std::vector<ParameterInfo> parameters)
      : policy_(policy), parameters_(std::move(parameters)) {
    std::vector<LayerInfo> layers;
    for (const ParameterInfo& parameter : parameters_) {
      if (!parameter.is_weight) continue;
      LayerInfo layer;
      layer.name = parameter.name;
      layer.weights = parameter.elements();
      layer.is_first = layers.empty();
      layers.push_back(layer);
    }
    policy_.attach(layers);
    policy_.parameter_rule()->attach_parameters(parameters_);
    for (const ParameterInfo& parameter : parameters_) {
      masters.emplace_back(static_cast<size_t>(parameter.elements()), 0.0F);
    }
    working = masters;
    gradients = masters;
  }

  static std::vector<float> quantized(const std::vector<float>& x, const TensorPlan& plan, RandomKey key) {
    if (plan.format.is_float() || x.empty()) return x;
    const auto [min, max] = std::minmax_element(x.begin(), x.end());
    const QuantParams params = plan.params ? *plan.params : choose_params(plan.format, {*min, *max});
    const Quantizer quantizer = make_quantizer(plan.format, params);
    std::vector<float> result;
    for (size_t i = 0; i < x.size(); ++i) {
      result.push_back(dequantize_value(quantizer, quantize_value(quantizer, x[i], random_bits(key, i))));
    }
    return result;
  }

  void write_working(int64_t updates) {
    for (size_t p = 0; p < parameters_.size(); ++p) {
      VectorProbe probe(masters[p]);
      const TensorPlan plan = policy_.parameter_rule()->working(static_cast<int>(p), probe);
      working[p] =
          quantized(masters[p], plan,
                    random_key({.step = static_cast<uint64_t>(updates), .layer = static_cast<uint32_t>(p)}));
      policy_.parameter_rule()->observe_working(static_cast<int>(p), working[p]);
    }
  }

  /// One update with `gradients`; afterwards they are what the optimiser would get.
  void update(const StepInfo& step, double loss, int64_t micro_batches = 1) {
    ParameterRule& rule = *policy_.parameter_rule();
    rule.begin_update(step, loss, micro_batches);
    for (size_t p = 0; p < parameters_.size(); ++p) {
      const ParameterUpdate update{.parameter = static_cast<int>(p),
                                   .gradient = gradients[p],
                                   .master = masters[p],
                                   .working = working[p],
                                   .weight_decay = weight_decay,
                                   .step = step};
      rule.prepare(update);
      VectorProbe probe(gradients[p]);
      const TensorPlan plan = rule.gradient(static_cast<int>(p), probe);
      const std::vector<float> on_grid = quantized(
          gradients[p], plan,
          random_key(
              {.seed = 1, .step = static_cast<uint64_t>(step.step), .layer = static_cast<uint32_t>(p)}));
      std::ranges::copy(on_grid, gradients[p].begin());
      rule.update(update);
    }
  }

  std::vector<std::vector<float>> masters, working, gradients;
  double weight_decay = 0.0;

 private:
  Policy& policy_;
  std::vector<ParameterInfo> parameters_;
};

}  // namespace bitdial::testing
