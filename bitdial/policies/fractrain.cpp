#include "bitdial/policies/fractrain.h"

namespace bitdial::policies {

FracTrainPolicy::FracTrainPolicy(OptionReader& options)
    : DfqPolicy(options, {.target = std::nullopt, .middle = "zero"}) {
  t0_ = options.number("t0", is_imagenet() ? 3.0 : 1.5, 0.0, 100.0,
                       "first target of the cost in percent of float32's");
  delta_ = options.number("delta", 0.5, 0.0, 100.0, "rise of the target with every switch, in percent");
  PfqIndicator::Options indicator;
  indicator.epsilon =
      options.number("epsilon", 0.05, 0.0, 1e6, "first threshold of the relative change of losses");
  indicator.alpha = options.number("alpha", 0.3, 0.0, 1.0, "epsilon <- alpha * epsilon after a switch");
  eval_every_ =
      options.number_or_word("eval_every", is_imagenet() ? std::nullopt : std::optional(390.0), "epoch", 1.0,
                             1e12, "steps between two looks at the loss; epoch: at the end of each");
  indicator_ = PfqIndicator(indicator);
  follow_indicator();
  keep_options(options);
}

void FracTrainPolicy::end_step(const StepInfo&, const StepReport& report) {
  loss_sum_ += report.loss;
  ++losses_;
  if (eval_every_ && losses_ >= static_cast<int64_t>(*eval_every_)) end_losses();
}

RunControl FracTrainPolicy::end_epoch(const EpochReport&) {
  if (!eval_every_ && losses_ > 0) end_losses();
  return {};
}

void FracTrainPolicy::end_losses() {
  const PfqIndicator::Verdict verdict = indicator_.end_epoch(loss_sum_ / static_cast<double>(losses_));
  loss_sum_ = 0.0;
  losses_ = 0;
  if (!verdict.switched) return;
  verdict_ = evidence_of(verdict);
  follow_indicator();
  report();
}

nlohmann::json FracTrainPolicy::numbers() const {
  nlohmann::json all = DfqPolicy::numbers();
  if (!verdict_.is_null()) all["pfq"] = verdict_;
  return all;
}

// The stage of the last switch, if its window of losses really led there.
double FracTrainPolicy::target_again(const nlohmann::json& evidence) const {
  if (!evidence.contains("pfq")) return t0_;
  const nlohmann::json& verdict = evidence.at("pfq");
  const int k = verdict.at("k").get<int>();
  return t0_ + delta_ * (pfq_changes_again(verdict).has_settled ? k : k - 1);
}

nlohmann::json FracTrainPolicy::state() const {
  return {{"dfq", DfqPolicy::state()},
          {"indicator", indicator_.state()},
          {"verdict", verdict_},
          {"loss_sum", loss_sum_},
          {"losses", losses_}};
}

void FracTrainPolicy::load_state(const nlohmann::json& state) {
  DfqPolicy::load_state(state.at("dfq"));
  indicator_.load_state(state.at("indicator"));
  follow_indicator();
  verdict_ = state.at("verdict");
  state.at("loss_sum").get_to(loss_sum_);
  state.at("losses").get_to(losses_);
}

}  // namespace bitdial::policies
