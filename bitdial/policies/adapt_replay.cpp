// AdaPT's decisions, taken again from the numbers in a run's log.
#include <array>
#include <limits>

#include "bitdial/core/error.h"
#include "bitdial/policies/adapt.h"

namespace bitdial::policies {

namespace {

AdaptStrategy strategy_named(const std::string& name) {
  for (const AdaptStrategy strategy : {AdaptStrategy::kMin, AdaptStrategy::kMean, AdaptStrategy::kMax})
    if (name == kStrategyNames[static_cast<size_t>(strategy)]) return strategy;
  fail("adapt", "the log has the unknown strategy \"{}\"", name);
}

FixedPoint read_format(const nlohmann::json& pair) { return {pair.at(0).get<int>(), pair.at(1).get<int>()}; }

}  // namespace

// PushDown looked at weights, which the log does not hold; from its format PushUp follows by D and the
// strategy, or by the formats that the gathered gradients want.
std::optional<TensorPlan> AdaptPolicy::redecide(TensorId id, const StepInfo&,
                                                const nlohmann::json& evidence) {
  TensorPlan plan;
  if (evidence.contains("push_down")) {
    const AdaptStrategy strategy = strategy_named(evidence.at("strategy").get<std::string>());
    PushUpResult up;
    if (push_up_.form == PushUpForm::kKlGradients) {
      std::vector<FixedPoint> formats;
      for (const nlohmann::json& pair : evidence.at("gradient_formats")) formats.push_back(read_format(pair));
      require(!formats.empty(), "adapt", "a decision without gathered gradients");
      up.format = agree(formats, strategy, push_up_);
    } else {
      // JSON has no infinity: gradients that cancel each other are null.
      const nlohmann::json& D = evidence.at("D");
      up = push_up(D.is_null() ? std::numeric_limits<double>::infinity() : D.get<double>(),
                   read_format(evidence.at("push_down")), strategy, push_up_);
      plan.evidence = {{"s1", up.s1}, {"s2", up.s2}, {"s", up.s}};
    }
    layer_formats_.at(static_cast<size_t>(id.layer)) = up.format;
  }
  plan.format = evaluation_format(id);
  return plan;
}

}  // namespace bitdial::policies
