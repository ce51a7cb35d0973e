#include "bitdial/policies/overrides.h"

#include <algorithm>
#include <array>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"

namespace bitdial::policies {
namespace {

// Operands of GEMMs; results stay the base's.
constexpr std::array<TensorRole, 5> kRoles{TensorRole::kWeight, TensorRole::kInput, TensorRole::kInputWtgrad,
                                           TensorRole::kGradBprop, TensorRole::kGradWtgrad};

// "x" and "dy" name both of their copies.
bool names_role(const std::string& word, TensorRole role) {
  const std::string_view name = to_string(role);
  return word == name || (word == "x" && name.starts_with("x")) || (word == "dy" && name.starts_with("dy"));
}

void check_tensor(const std::string& word) {
  const bool known =
      std::any_of(kRoles.begin(), kRoles.end(), [&](TensorRole role) { return names_role(word, role); });
  std::vector<std::string> names{"dy"};
  for (const TensorRole role : kRoles) names.emplace_back(to_string(role));
  require(known, "policies", "an override names the tensor \"{}\"{}", word, suggestion(word, names));
}

bool names_layer(const std::string& word, const LayerInfo& layer) {
  if (word == "@first") return layer.is_first;
  if (word == "@last") return layer.is_last;
  return matches_pattern(layer.name, word);
}

class OverridePolicy : public Policy {
 public:
  OverridePolicy(std::shared_ptr<Policy> base, std::vector<Override> overrides)
      : overrides_(std::move(overrides)) {
    policies_.push_back(std::move(base));
    for (const Override& one : overrides_) {
      for (const std::string& tensor : one.tensors) check_tensor(tensor);
      policies_.push_back(one.policy);
    }
  }

  std::string name() const override { return policies_[0]->name(); }

  nlohmann::json options() const override { return policies_[0]->options(); }

  void attach(std::span<const LayerInfo> layers) override {
    Policy::attach(layers);
    for (const auto& policy : policies_) policy->attach(layers);
    for (const Override& one : overrides_) {
      for (const std::string& pattern : one.layers) check_pattern(pattern);
    }
    routes_.assign(layers.size(), {});
    for (size_t i = 0; i < layers.size(); ++i) {
      for (const TensorRole role : kRoles)
        routes_[i][static_cast<size_t>(role)] = find_route(layers[i], role);
    }
  }

  void begin_step(const StepInfo& step) override {
    for (const auto& policy : policies_) policy->begin_step(step);
  }

  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override {
    return of(id).plan(id, step, probe);
  }

  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override {
    return of(id).redecide(id, step, evidence);
  }

  bool has_final_precision() const override { return policies_[0]->has_final_precision(); }
  Format final_evaluation_format(TensorId id) const override { return of(id).final_evaluation_format(id); }

  void observe(TensorId id, const StepInfo& step, const QuantizeStatistics& statistics) override {
    of(id).observe(id, step, statistics);
  }

  std::optional<KeptResidual> step_gradients(int layer) const override {
    for (const TensorRole role : {TensorRole::kInput, TensorRole::kWeight}) {
      const auto kept = of({.layer = layer, .role = role}).step_gradients(layer);
      if (kept) return kept;
    }
    return std::nullopt;
  }

  void observe_step_gradients(TensorId id, const StepInfo& step, const StepGradients& gradients) override {
    of(id).observe_step_gradients(id, step, gradients);
  }

  std::optional<GateRequest> gate() const override { return policies_[0]->gate(); }

  std::vector<double> weigh_gate(const GateUse& use, const StepInfo& step) override {
    return policies_[0]->weigh_gate(use, step);
  }

  std::optional<double> mean_bits(TensorId id) const override { return of(id).mean_bits(id); }
  double bits_covariance(int layer) const override {
    // Only if one policy has both operands: bits of different policies are independent.
    const Policy& x = of({.layer = layer, .role = TensorRole::kInputWtgrad});
    return &x == &of({.layer = layer, .role = TensorRole::kGradWtgrad}) ? x.bits_covariance(layer) : 0.0;
  }

  void set_macs(int layer, int64_t macs) override {
    for (const auto& policy : policies_) policy->set_macs(layer, macs);
  }

  void end_step(const StepInfo& step, const StepReport& report) override {
    for (const auto& policy : policies_) policy->end_step(step, report);
  }

  RunControl end_epoch(const EpochReport& report) override {
    RunControl all;
    for (const auto& policy : policies_) {
      const RunControl one = policy->end_epoch(report);
      if (!all.learning_rate) all.learning_rate = one.learning_rate;
      all.stop = all.stop || one.stop;
    }
    return all;
  }

  RunControl control(const StepInfo& step) override {
    RunControl all;
    for (const auto& policy : policies_) {
      const RunControl one = policy->control(step);
      if (!all.learning_rate) all.learning_rate = one.learning_rate;
      all.stop = all.stop || one.stop;
    }
    return all;
  }

  Format evaluation_format(TensorId id) const override { return of(id).evaluation_format(id); }
  std::optional<QuantParams> evaluation_params(TensorId id, TensorProbe& probe) const override {
    return of(id).evaluation_params(id, probe);
  }
  ResultQuantization results() const override { return policies_[0]->results(); }
  ParameterRule* parameter_rule() override { return policies_[0]->parameter_rule(); }
  void set_arithmetic(bool is_integer) override {
    for (const auto& policy : policies_) policy->set_arithmetic(is_integer);
  }
  RunningRange running_range(TensorId id) const override { return of(id).running_range(id); }
  FloatArithmetic float_arithmetic() const override { return policies_[0]->float_arithmetic(); }
  Normalization normalization() const override { return policies_[0]->normalization(); }
  Initializer initializer() const override { return policies_[0]->initializer(); }
  Between between() const override { return policies_[0]->between(); }

  bool needs_timings() const override {
    return std::any_of(policies_.begin(), policies_.end(),
                       [](const auto& policy) { return policy->needs_timings(); });
  }

  void set_timings(std::shared_ptr<Timings> timings) override {
    for (const auto& policy : policies_) policy->set_timings(timings);
  }

  bool quantizes() const override {
    return std::any_of(policies_.begin(), policies_.end(),
                       [](const auto& policy) { return policy->quantizes(); });
  }

  nlohmann::json state() const override {
    nlohmann::json states = nlohmann::json::array();
    for (const auto& policy : policies_)
      states.push_back({{"policy", policy->name()}, {"state", policy->state()}});
    return states;
  }

  void load_state(const nlohmann::json& state) override {
    require(state.is_array() && state.size() == policies_.size(), "policies",
            "the saved state has {} policies, the recipe names {}", state.size(), policies_.size());
    for (size_t i = 0; i < policies_.size(); ++i) {
      const auto name = state[i].at("policy").get<std::string>();
      require(name == policies_[i]->name(), "policies",
              "policy {} of the saved state is \"{}\", of the recipe \"{}\"", i, name, policies_[i]->name());
      policies_[i]->load_state(state[i].at("state"));
    }
  }

 private:
  Policy& of(TensorId id) const {
    const size_t route = routes_.at(static_cast<size_t>(id.layer))[static_cast<size_t>(id.role)];
    const bool rests = route > 0 && overrides_[route - 1].follows_base && is_float(id.layer);
    return *policies_[rests ? 0 : route];
  }

  // Whether the base leaves W and X of a layer in float32 now.
  bool is_float(int layer) const {
    const Policy& base = *policies_[0];
    return base.quantizes() && base.evaluation_format({layer, TensorRole::kWeight}).is_float() &&
           base.evaluation_format({layer, TensorRole::kInput}).is_float();
  }

  size_t find_route(const LayerInfo& layer, TensorRole role) const {
    for (size_t i = 0; i < overrides_.size(); ++i) {
      const Override& one = overrides_[i];
      const auto is_layer = [&](const std::string& word) { return names_layer(word, layer); };
      const auto is_tensor = [&](const std::string& word) { return names_role(word, role); };
      const bool layer_matches =
          one.layers.empty() || std::any_of(one.layers.begin(), one.layers.end(), is_layer);
      const bool tensor_matches =
          one.tensors.empty() || std::any_of(one.tensors.begin(), one.tensors.end(), is_tensor);
      if (layer_matches && tensor_matches) return i + 1;
    }
    return 0;
  }

  void check_pattern(const std::string& pattern) const {
    std::vector<std::string> names;
    for (const LayerInfo& layer : layers_) {
      if (names_layer(pattern, layer)) return;
      names.push_back(layer.name);
    }
    fail("policies", "an override names \"{}\", which no layer matches{}", pattern,
         suggestion(pattern, names));
  }

  std::vector<Override> overrides_;
  std::vector<std::shared_ptr<Policy>> policies_;         // base, then one per override
  std::vector<std::array<size_t, kTensorRoles>> routes_;  // per layer and role: index into policies_
};

}  // namespace

bool matches_pattern(std::string_view name, std::string_view pattern) {
  size_t n = 0, p = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p, ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

Override gradient_override(std::shared_ptr<Policy> gradient) {
  return {.layers = {}, .tensors = {"dy"}, .policy = std::move(gradient), .follows_base = true};
}

std::shared_ptr<Policy> with_overrides(std::shared_ptr<Policy> base, std::vector<Override> overrides) {
  if (overrides.empty()) return base;
  return std::make_shared<OverridePolicy>(std::move(base), std::move(overrides));
}

}  // namespace bitdial::policies
