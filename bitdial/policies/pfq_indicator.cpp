#include "bitdial/policies/pfq_indicator.h"

#include <algorithm>
#include <cmath>

#include "bitdial/core/error.h"

namespace bitdial::policies {

PfqIndicator::Verdict PfqIndicator::end_epoch(double loss) {
  require(std::isfinite(loss), "pfq", "the loss of epoch {} is not finite", epochs_ + 1);
  ++epochs_;
  if (epochs_ <= options_.scale_epochs) {
    loss_sum_ += loss;
    scale_ = loss_sum_ / static_cast<double>(epochs_);
  }
  Verdict verdict{.stage = stage_, .epoch = epochs_, .S = scale_, .epsilon = epsilon_};
  if (stage_ >= options_.switches) return verdict;

  window_.push_back(loss);
  if (std::ssize(window_) > options_.window) window_.erase(window_.begin());
  verdict.window = window_;
  if (std::ssize(window_) < options_.window) return verdict;
  for (size_t j = 1; j < window_.size(); ++j) {
    verdict.differences.push_back(std::fabs(window_[window_.size() - 1 - j] - loss) / scale_);
  }
  const bool is_flat = std::all_of(verdict.differences.begin(), verdict.differences.end(),
                                   [&](double d) { return d <= epsilon_; });
  if (!is_flat) return verdict;
  ++stage_;
  if (stage_ < options_.switches) epsilon_ *= options_.alpha;
  window_.clear();
  verdict.switched = true;
  verdict.stage = stage_;
  return verdict;
}

nlohmann::json PfqIndicator::state() const {
  return {{"stage", stage_},       {"epsilon", epsilon_}, {"S", scale_},
          {"loss_sum", loss_sum_}, {"epochs", epochs_},   {"window", window_}};
}

void PfqIndicator::load_state(const nlohmann::json& state) {
  state.at("stage").get_to(stage_);
  state.at("epsilon").get_to(epsilon_);
  state.at("S").get_to(scale_);
  state.at("loss_sum").get_to(loss_sum_);
  state.at("epochs").get_to(epochs_);
  state.at("window").get_to(window_);
}

PfqChanges pfq_changes_again(const nlohmann::json& evidence) {
  const auto window = evidence.at("window").get<std::vector<double>>();
  const auto S = evidence.at("S").get<double>();
  require(!window.empty(), "pfq", "a switch without losses in its window");
  const auto epsilon = evidence.at("epsilon").get<double>();
  PfqChanges changes;
  for (size_t j = 1; j < window.size(); ++j) {
    const double d = std::fabs(window[window.size() - 1 - j] - window.back()) / S;
    changes.d.push_back(d);
    changes.has_settled = changes.has_settled && d <= epsilon;
  }
  return changes;
}

nlohmann::json evidence_of(const PfqIndicator::Verdict& verdict) {
  return {{"k", verdict.stage},         {"e", verdict.epoch},       {"S", verdict.S},
          {"epsilon", verdict.epsilon}, {"window", verdict.window}, {"d", verdict.differences}};
}

}  // namespace bitdial::policies
