#include "bitdial/policies/random_policy.h"

#include "bitdial/core/error.h"
#include "bitdial/core/random.h"

namespace bitdial::policies {

RandomPolicy::RandomPolicy(OptionReader& options)
    : SharedPolicy(options),
      choices_(options.integers("bits", {4, 6, 8}, 2, 32, "what the bits are drawn from, equally likely")),
      every_(options.integer("every", 10, 1, 1000000000, "iterations between two draws (k: 1, 10, 100)")),
      share_(
          options.number("share", 0.5625, 0.0, 1.0, "share of the run with random bits (90 of 160 epochs)")),
      final_bits_(options.integer("final_bits", 8, 2, 32, "bits from then on")),
      gradient_is_same_(options.choice<bool>(
          "gradient", "8", {{"8", false}, {"same", true}},
          "bits of dY: 8, which the printed cost implies, or the random ones, as the text says")),
      is_per_layer_(options.choice<bool>("scope", "network", {{"network", false}, {"layer", true}},
                                         "one draw for all layers, or one for each")),
      seed_(options.integer("seed", 0, 0, 2147483647, "of the draws")) {
  keep_options(options);
}

void RandomPolicy::begin_step(const StepInfo& step) {
  step_ = step.step;
  total_steps_ = step.total_steps;
}

int RandomPolicy::bits(int64_t step, int64_t total_steps, int layer) const {
  if (static_cast<double>(step) >= share_ * static_cast<double>(total_steps)) return final_bits_;
  const RandomKey key = random_key({.seed = static_cast<uint64_t>(seed_),
                                    .step = static_cast<uint64_t>(step / every_),
                                    .layer = is_per_layer_ ? static_cast<uint32_t>(layer) : 0U});
  const uint64_t draw = (uint64_t{random_bits(key, 0)} * choices_.size()) >> 32;
  return choices_[draw];
}

SharedBits RandomPolicy::wanted_bits(int layer) const {
  const int forward = bits(step_, total_steps_, layer);
  return {.forward = forward, .gradient = gradient_is_same_ ? forward : 8};
}

void RandomPolicy::explain(TensorId, TensorPlan& plan) const {
  const bool is_random = static_cast<double>(step_) < share_ * static_cast<double>(total_steps_);
  plan.reason = is_random ? fmt::format("draw {}", step_ / every_) : "the random part of the run is over";
  plan.evidence = {{"t", step_}, {"total_steps", total_steps_}, {"every", every_}, {"seed", seed_}};
}

std::optional<TensorPlan> RandomPolicy::redecide(TensorId id, const StepInfo& step,
                                                 const nlohmann::json& evidence) {
  StepInfo then = step;
  then.total_steps = evidence.value("total_steps", step.total_steps);  // the run may have become longer since
  begin_step(then);
  return TensorPlan{.format = evaluation_format(id), .params = {}, .reason = {}, .evidence = {}};
}

nlohmann::json RandomPolicy::state() const {
  return {{"shared", SharedPolicy::state()}, {"step", step_}, {"total_steps", total_steps_}};
}

void RandomPolicy::load_state(const nlohmann::json& state) {
  SharedPolicy::load_state(state.at("shared"));
  state.at("step").get_to(step_);
  state.at("total_steps").get_to(total_steps_);
}

}  // namespace bitdial::policies
