// How AdaPT gathers gradients and switches formats (specs: adapt.md, "PushDown" to "Lookback").
#include <algorithm>
#include <atomic>
#include <cmath>

#include "bitdial/core/parallel.h"
#include "bitdial/core/profile.h"
#include "bitdial/policies/adapt.h"
#include "bitdial/policies/vector_sums.h"

namespace bitdial::policies {
namespace {

// Streams of random bits apart from those of operands and parameters.
constexpr uint32_t kSearchStream = 64, kGradientSearchStream = 65;

// Histograms of tensors above this size keep all threads busy by themselves.
constexpr size_t kLargeTensor = 1 << 17;

nlohmann::json pair(FixedPoint format) { return {format.WL, format.FL}; }

nlohmann::json pairs(std::span<const Candidate> looked_at) {
  nlohmann::json all = nlohmann::json::array();
  for (const Candidate& one : looked_at) all.push_back({one.length, one.loss});
  return all;
}

}  // namespace

void AdaptPolicy::gather(const ParameterUpdate& update, double norm) {
  const PhaseScope phase(Phase::kPolicy);
  const auto p = static_cast<size_t>(update.parameter);
  Tensor& tensor = tensors_[p];
  std::vector<float>& G = G_[p];
  // D is made of directions, also where gradients keep their norms.
  add_to(G, update.gradient, norm > 0.0 ? static_cast<float>(1.0 / norm) : 1.0F);
  if (!gathered_[p].empty()) {
    const auto place = static_cast<std::ptrdiff_t>(static_cast<size_t>(tensor.n) * G.size());
    std::ranges::copy(update.gradient, gathered_[p].begin() + place);
  }
  ++tensor.n;
  const int lb_before = tensor.lb, r_before = tensor.r;
  const double D = adapt_diversity(tensor.n, std::sqrt(squared_norm(G)));
  tensor.lb = adapt_lookback(D, tensor.lb, lookback_);
  tensor.r = adapt_resolution(tensor.lb, tensor.r, lookback_, r_lwr_, r_upr_);
  if (tensor.n >= tensor.lb) closed_.push_back({p, D, update.master, lb_before, r_before});
}

// Several layers close their windows in the same step, at first all of them: small ones are searched side by
// side, a large one by all threads.
void AdaptPolicy::switch_formats(const StepInfo& step) {
  const double P = penalty();
  std::vector<Switch> changes(closed_.size());
  std::ranges::stable_sort(closed_, std::ranges::greater{},
                           [](const auto& one) { return one.master.size(); });
  std::atomic<size_t> next = 0;
  for (; next < closed_.size() && closed_[next].master.size() >= kLargeTensor; ++next) {
    changes[next] = decide(closed_[next], step);
  }
  const auto left = static_cast<int64_t>(closed_.size() - next);
  parallel_for(std::min<int64_t>(left, num_threads()), 1, [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) {
      for (size_t k = next++; k < closed_.size(); k = next++) changes[k] = decide(closed_[k], step);
    }
  });
  for (size_t k = 0; k < closed_.size(); ++k) apply(closed_[k], changes[k], P);
  closed_.clear();
}

// PushDown, then PushUp.
AdaptPolicy::Switch AdaptPolicy::decide(const ClosedWindow& window, const StepInfo& step) const {
  const size_t p = window.parameter;
  const Tensor& tensor = tensors_[p];
  const RandomCounters counters{.seed = seed_,
                                .step = static_cast<uint64_t>(step.step),
                                .layer = static_cast<uint32_t>(p),
                                .tensor = kSearchStream};
  Switch change{.before = tensor.format, .lb = tensor.lb, .r = tensor.r, .strategy = loss_.strategy};
  change.down = push_down(searched(p, window.master), tensor.format, tensor.r, push_down_, counters);
  if (push_up_.form == PushUpForm::kKlGradients)
    change.gradient_formats = gradient_formats(p, change.down.format, step);
  push_up_by(window.D, change);
  return change;
}

void AdaptPolicy::push_up_by(double D, Switch& change) const {
  if (push_up_.form == PushUpForm::kKlGradients) {
    std::vector<FixedPoint> formats;
    for (const RaisedFormat& wanted : change.gradient_formats) formats.push_back(wanted.format);
    change.up.format = agree(formats, change.strategy, push_up_);
  } else {
    change.up = push_up(D, change.down.format, change.strategy, push_up_);
  }
}

// The accumulators start anew.
void AdaptPolicy::apply(const ClosedWindow& window, const Switch& change, double P) {
  const size_t p = window.parameter;
  const int layer = parameters_[p].layer;
  if (layer >= 0 && parameters_[p].is_weight) {
    announcements_.at(static_cast<size_t>(layer)) = announce(window, change, P);
    layer_formats_.at(static_cast<size_t>(layer)) = change.up.format;
  }
  tensors_[p].format = change.up.format;
  tensors_[p].n = 0;
  std::ranges::fill(G_[p], 0.0F);
}

AdaptPolicy::Announcement AdaptPolicy::announce(const ClosedWindow& window, const Switch& change,
                                                double P) const {
  const FixedPoint before = change.before, down = change.down.format, up = change.up.format;
  const char* strategy = kStrategyNames[static_cast<size_t>(change.strategy)];
  Announcement one{
      fmt::format("<{},{}> down to <{},{}>, up by {} to <{},{}> ({}, D {:.4g})", before.WL, before.FL,
                  down.WL, down.FL, up.FL - down.FL, up.WL, up.FL, strategy, window.D),
      evidence_of(change)};
  nlohmann::json& evidence = one.evidence;
  evidence["D"] = window.D;
  evidence["n"] = tensors_[window.parameter].n;
  evidence["lookback_before"] = window.lb_before;
  evidence["resolution_before"] = window.r_before;
  evidence["strategy_before"] = kStrategyNames[static_cast<size_t>(choice_.before)];
  evidence["loss"] = choice_.loss;
  evidence["mean_loss"] = choice_.average ? nlohmann::json(*choice_.average) : nlohmann::json();
  evidence["zeros"] = zeros_[window.parameter];
  evidence["penalty"] = P;
  return one;
}

nlohmann::json AdaptPolicy::evidence_of(const Switch& change) {
  nlohmann::json evidence = {{"lookback", change.lb},
                             {"resolution", change.r},
                             {"strategy", kStrategyNames[static_cast<size_t>(change.strategy)]},
                             {"before", pair(change.before)},
                             {"KL_FL", pairs(change.down.FL)},
                             {"KL_WL", pairs(change.down.WL)},
                             {"push_down", pair(change.down.format)},
                             {"s1", change.up.s1},
                             {"s2", change.up.s2},
                             {"s", change.up.s}};
  for (const RaisedFormat& wanted : change.gradient_formats)
    evidence["gradient_formats"].push_back({wanted.format.WL, wanted.format.FL, wanted.loss});
  return evidence;
}

std::span<const float> AdaptPolicy::searched(size_t parameter, std::span<const float> values) const {
  if (!push_down_.first_slice || values.empty()) return values;
  return values.first(values.size() / static_cast<size_t>(parameters_[parameter].shape.front()));
}

std::vector<RaisedFormat> AdaptPolicy::gradient_formats(size_t parameter, FixedPoint reduced,
                                                        const StepInfo& step) const {
  const size_t elements = G_[parameter].size();
  std::vector<RaisedFormat> formats;
  for (size_t k = 0; k < static_cast<size_t>(tensors_[parameter].n); ++k) {
    const RandomCounters counters{.seed = seed_,
                                  .step = static_cast<uint64_t>(step.step),
                                  .micro_batch = static_cast<uint32_t>(k),
                                  .layer = static_cast<uint32_t>(parameter),
                                  .tensor = kGradientSearchStream};
    const std::span<const float> one = std::span(gathered_[parameter]).subspan(k * elements, elements);
    formats.push_back(raise_for_gradient(one, reduced, tensors_[parameter].r, push_down_, counters));
  }
  return formats;
}

}  // namespace bitdial::policies
