#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/policies/options.h"
#include "bitdial/policies/shared_quantizer.h"

namespace bitdial::policies {

/// One word length per kind of tensor, the same in every layer and at every step ("static:W/A/G").
/// By default X is affine with an exact zero (unsigned codes), W symmetric, dY symmetric with stochastic
/// rounding and shared by both gradients, every scale per tensor and from the earlier steps' ranges.
///
/// Preset `shared` ("static:shared:F/G"): F bits for W and X and G bits for dY in the quantiser that CPT,
/// FracTrain and LDP share (shared_quantizer.h). With ordinary batch normalisation it is the FW/BW baseline
/// that those papers call SBM.
class StaticPolicy : public Policy {
 public:
  explicit StaticPolicy(OptionReader& options);

  std::string name() const override { return "static"; }
  nlohmann::json options() const override { return options_; }
  void attach(std::span<const LayerInfo> layers) override;
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  Format evaluation_format(TensorId id) const override;
  RunningRange running_range(TensorId id) const override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo&, const nlohmann::json&) override {
    return TensorPlan{.format = evaluation_format(id), .params = {}, .reason = {}, .evidence = {}};
  }
  Normalization normalization() const override { return normalization_; }
  Between between() const override { return between_; }
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

 private:
  nlohmann::json options_;
  std::array<Format, kTensorRoles> formats_;
  SharedLayers layers_rule_ = SharedLayers::kAll;
  bool depthwise_is_fixed_ = false;
  std::vector<bool> is_float_;  // per layer
  RunningRange activation_range_;
  Normalization normalization_ = Normalization::kBatch;
  Between between_ = Between::kFloat32;
  std::vector<std::array<bool, kTensorRoles>> announced_;  // per layer: the plan is in the log already
};

}  // namespace bitdial::policies
