#include "bitdial/policies/skeleton.h"

#include "bitdial/core/error.h"

namespace bitdial::policies {
namespace {

bool is_gradient(TensorRole role) {
  return role == TensorRole::kGradBprop || role == TensorRole::kGradWtgrad;
}

}  // namespace

// 1. Options. Name, default, range and one line of help each; the registry then refuses every other name.
SkeletonPolicy::SkeletonPolicy(OptionReader& options)
    : zero_fraction_(options.number("zero_fraction", 0.5, 0.0, 1.0,
                                    "share of zero codes in a layer's gradient that widens it to 16 bits")),
      options_(options.resolved()) {}

// 2. Once, before the first step: the layers. `layers_` keeps their names, kinds, sizes and MACs.
void SkeletonPolicy::attach(std::span<const LayerInfo> layers) {
  Policy::attach(layers);
  state_.assign(layers.size(), {});
}

// 3. The answer, each time an operand is about to be quantised. Return a format; the layer makes the scale
// from the tensor's range unless you set plan.params yourself. `probe` measures the tensor (each measure
// costs one pass).
TensorPlan SkeletonPolicy::plan(TensorId id, const StepInfo& step, TensorProbe&) {
  TensorPlan plan;
  plan.format = evaluation_format(id);
  Layer& layer = state_.at(static_cast<size_t>(id.layer));
  // A plan with a reason is a line of precision.jsonl: give one only for a new decision.
  if (step.training && layer.announce && id.role == TensorRole::kGradBprop) {
    layer.announce = false;
    plan.reason = layer.gradient_bits == 8 ? "starts at 8 bits" : "too many zero codes at 8 bits";
    plan.evidence = {{"zero_share", layer.zero_share}, {"zero_fraction", zero_fraction_}};
  }
  return plan;
}

// 4. What the quantise pass counted comes for free: saturated and zero codes, and the range.
void SkeletonPolicy::observe(TensorId id, const StepInfo& step, const QuantizeStatistics& statistics) {
  if (!step.training || !is_gradient(id.role)) return;
  Layer& layer = state_.at(static_cast<size_t>(id.layer));
  layer.codes += statistics.count;
  layer.zeros += statistics.zeros;
}

// 5. Decisions that wait for the end of an epoch. The answer may also set the learning rate or stop the run.
RunControl SkeletonPolicy::end_epoch(const EpochReport&) {
  for (Layer& layer : state_) {
    layer.zero_share =
        layer.codes ? static_cast<double>(layer.zeros) / static_cast<double>(layer.codes) : 0.0;
    if (layer.gradient_bits == 8 && layer.zero_share > zero_fraction_) {
      layer.gradient_bits = 16;
      layer.announce = true;
    }
    layer.codes = layer.zeros = 0;
  }
  return {};
}

// 6. The format of a tensor while the network is evaluated (scales are those of training). Here it is also
// what plan() returns: unsigned codes for X, because most inputs come from a ReLU.
Format SkeletonPolicy::evaluation_format(TensorId id) const {
  Format format;
  const bool activation = id.role == TensorRole::kInput || id.role == TensorRole::kInputWtgrad;
  format.rule = activation ? ScaleRule::kAffine : ScaleRule::kSymmetric;
  format.exact_zero = activation;
  format.word_length = is_gradient(id.role) ? state_.at(static_cast<size_t>(id.layer)).gradient_bits : 8;
  // Gradients are often smaller than one step: rounding to nearest would bias them to zero.
  format.rounding = is_gradient(id.role) ? Rounding::kStochastic : Rounding::kNearestEven;
  return format;
}

// 7. A run that was interrupted must decide as if it had not been: save all, restore all.
nlohmann::json SkeletonPolicy::state() const {
  nlohmann::json layers = nlohmann::json::array();
  for (const Layer& layer : state_) {
    layers.push_back({{"gradient_bits", layer.gradient_bits},
                      {"codes", layer.codes},
                      {"zeros", layer.zeros},
                      {"announce", layer.announce},
                      {"zero_share", layer.zero_share}});
  }
  return {{"layers", std::move(layers)}};
}

void SkeletonPolicy::load_state(const nlohmann::json& state) {
  const nlohmann::json& layers = state.at("layers");
  require(layers.size() == state_.size(), "skeleton", "the saved state has {} layers, the network {}",
          layers.size(), state_.size());
  for (size_t i = 0; i < state_.size(); ++i) {
    layers[i].at("gradient_bits").get_to(state_[i].gradient_bits);
    layers[i].at("codes").get_to(state_[i].codes);
    layers[i].at("zeros").get_to(state_[i].zeros);
    layers[i].at("announce").get_to(state_[i].announce);
    layers[i].at("zero_share").get_to(state_[i].zero_share);
  }
}

}  // namespace bitdial::policies
