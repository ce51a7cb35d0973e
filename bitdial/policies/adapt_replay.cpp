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

// JSON has no infinity: D of gradients that cancel each other is null.
double diversity_of(const nlohmann::json& evidence) {
  const nlohmann::json& D = evidence.at("D");
  return D.is_null() ? std::numeric_limits<double>::infinity() : D.get<double>();
}

AdaptStrategy strategy_of(const nlohmann::json& evidence) {
  const AdaptStrategy before = strategy_named(evidence.at("strategy_before").get<std::string>());
  const nlohmann::json& average = evidence.at("mean_loss");
  return average.is_null() ? before
                           : next_strategy(before, average.get<double>(), evidence.at("loss").get<double>());
}

// PushDown by the losses in the log, in the order that its searches met them. A candidate behind the last one
// loses nothing, which ends a search: the answer then names candidates that the log does not.
PushDownResult push_down_again(FixedPoint before, const PushDownOptions& options,
                               const nlohmann::json& evidence) {
  std::vector<double> losses;
  for (const char* search : {"KL_FL", "KL_WL"}) {
    for (const nlohmann::json& candidate : evidence.at(search))
      losses.push_back(candidate.at(1).get<double>());
  }
  size_t next = 0;
  return push_down(before, options, [&](FixedPoint) { return next < losses.size() ? losses[next++] : 0.0; });
}

// A format whose loss is too large would have been raised further.
std::vector<RaisedFormat> gradient_formats_again(const PushDownOptions& options,
                                                 const nlohmann::json& evidence) {
  std::vector<RaisedFormat> formats;
  for (const nlohmann::json& logged : evidence.at("gradient_formats")) {
    RaisedFormat wanted{.format = {logged.at(0).get<int>(), logged.at(1).get<int>()},
                        .loss = logged.at(2).get<double>()};
    if (is_lost(wanted.loss, options) && can_be_raised(wanted.format)) wanted.format = raised(wanted.format);
    formats.push_back(wanted);
  }
  require(!formats.empty(), "adapt", "a decision without gathered gradients");
  return formats;
}

}  // namespace

std::optional<AdaptPolicy::Switch> AdaptPolicy::switch_again(FixedPoint before,
                                                             const nlohmann::json& evidence) const {
  require(evidence.contains("KL_FL"), "adapt",
          "the log is of an older version: it lacks what PushDown's searches found");
  const double D = diversity_of(evidence);
  Switch change{.before = before};
  change.lb = adapt_lookback(D, evidence.at("lookback_before").get<int>(), lookback_);
  change.r =
      adapt_resolution(change.lb, evidence.at("resolution_before").get<int>(), lookback_, r_lwr_, r_upr_);
  if (evidence.at("n").get<int64_t>() < change.lb) return std::nullopt;
  change.strategy = strategy_of(evidence);
  change.down = push_down_again(before, push_down_, evidence);
  if (push_up_.form == PushUpForm::kKlGradients)
    change.gradient_formats = gradient_formats_again(push_down_, evidence);
  push_up_by(D, change);
  return change;
}

std::optional<TensorPlan> AdaptPolicy::redecide(TensorId id, const StepInfo&,
                                                const nlohmann::json& evidence) {
  TensorPlan plan;
  if (evidence.contains("push_down")) {
    FixedPoint& format = layer_formats_.at(static_cast<size_t>(id.layer));
    if (const auto change = switch_again(format, evidence)) {
      plan.evidence = evidence_of(*change);
      format = change->up.format;
    }
  }
  plan.format = evaluation_format(id);
  return plan;
}

}  // namespace bitdial::policies
