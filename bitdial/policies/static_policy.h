#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/policies/options.h"

namespace bitdial::policies {

/// One word length per kind of tensor, the same in every layer and at every step ("static:W/A/G").
/// By default X is affine with an exact zero (unsigned codes), W symmetric, dY symmetric with stochastic
/// rounding and shared by both gradients, every scale per tensor and from the earlier steps' ranges.
///
/// Preset `sbm`: Banner, Hubara, Hoffer and Soudry 2018, "Scalable methods for 8-bit training of neural
/// networks": the affine quantisers of gemmlowp, Range BN, and a bifurcated gradient (8 bits for BPROP, float
/// for WTGRAD).
class StaticPolicy : public Policy {
 public:
  StaticPolicy(std::string name, OptionReader& options);

  std::string name() const override { return name_; }
  nlohmann::json options() const override { return options_; }
  void attach(std::span<const LayerInfo> layers) override;
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  Format evaluation_format(TensorId id) const override { return formats_[static_cast<size_t>(id.role)]; }
  RunningRange running_range(TensorId id) const override;
  Normalization normalization() const override { return normalization_; }
  Between between() const override { return between_; }
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

 private:
  std::string name_;
  nlohmann::json options_;
  std::array<Format, kTensorRoles> formats_;
  RunningRange activation_range_;
  Normalization normalization_ = Normalization::kBatch;
  Between between_ = Between::kFloat32;
  std::vector<std::array<bool, kTensorRoles>> announced_;  // per layer: the plan is in the log already
};

}  // namespace bitdial::policies
