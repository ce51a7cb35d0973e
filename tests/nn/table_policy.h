#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bitdial/core/policy.h"

namespace bitdial::nn {

inline Format format_of(ScaleRule rule, int bits) { return {.rule = rule, .word_length = bits}; }

/// A policy that a test writes down: one format per role, the same for every layer, and hooks for the rest.
class TablePolicy : public Policy {
 public:
  TablePolicy(Format weight, Format input, Format input_wtgrad, Format grad_bprop, Format grad_wtgrad)
      : formats{weight, input, input_wtgrad, grad_bprop, grad_wtgrad} {}
  static std::shared_ptr<TablePolicy> all(const Format& f) {
    return std::make_shared<TablePolicy>(f, f, f, f, f);
  }
  static std::shared_ptr<TablePolicy> all(ScaleRule rule, int bits) { return all(format_of(rule, bits)); }

  std::string name() const override { return "table"; }
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override {
    asked.emplace_back(id.layer, id.role);
    if (on_plan) return on_plan(id, step, probe);
    TensorPlan plan;
    plan.format = formats[static_cast<size_t>(id.role)];
    return plan;
  }
  void observe(TensorId id, const StepInfo&, const QuantizeStatistics& statistics) override {
    observed[{id.layer, id.role}] = statistics;
  }
  Format evaluation_format(TensorId id) const override { return formats[static_cast<size_t>(id.role)]; }
  RunningRange running_range(TensorId) const override { return running; }
  FloatArithmetic float_arithmetic() const override { return arithmetic; }
  bool quantizes() const override { return is_on; }
  nlohmann::json state() const override { return {{"counter", counter}}; }
  void load_state(const nlohmann::json& json) override { counter = json.at("counter"); }
  void end_step(const StepInfo&, const StepReport&) override { ++counter; }

  Format formats[kTensorRoles];
  RunningRange running;
  FloatArithmetic arithmetic = FloatArithmetic::kFloat32;
  bool is_on = true;
  int counter = 0;
  std::function<TensorPlan(TensorId, const StepInfo&, TensorProbe&)> on_plan;
  std::vector<std::pair<int, TensorRole>> asked;
  std::map<std::pair<int, TensorRole>, QuantizeStatistics> observed;
};

}  // namespace bitdial::nn
