#pragma once

#include <array>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/policies/options.h"

namespace bitdial::policies {

/// SBM: Banner, Hubara, Hoffer and Soudry 2018, "Scalable methods for 8-bit training of neural networks"
/// (arXiv 1805.11046). Affine quantisers in gemmlowp's manner, Range BN in place of batch normalisation, and
/// gradient bifurcation: BPROP, on the critical path, takes 8 bits of dY, WTGRAD a wider copy.
///
/// `version`: the authors' code, quantized.pytorch (b1: one range per weight tensor) or the later
/// convNet.pytorch (b3: one per output channel).
class SbmPolicy : public Policy {
 public:
  explicit SbmPolicy(OptionReader& options);

  std::string name() const override { return "sbm"; }
  nlohmann::json options() const override { return options_; }
  void attach(std::span<const LayerInfo> layers) override;
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  Format evaluation_format(TensorId id) const override { return formats_[static_cast<size_t>(id.role)]; }
  RunningRange running_range(TensorId id) const override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo&, const nlohmann::json&) override {
    return TensorPlan{.format = evaluation_format(id), .params = {}, .reason = {}, .evidence = {}};
  }
  Normalization normalization() const override { return normalization_; }
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

 private:
  nlohmann::json options_;
  std::array<Format, kTensorRoles> formats_;
  RunningRange activation_range_;
  Normalization normalization_ = Normalization::kRange;
  std::vector<std::array<bool, kTensorRoles>> announced_;  // per layer: the plan is in the log already
};

}  // namespace bitdial::policies
