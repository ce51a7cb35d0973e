#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bitdial/policies/ldp_rule.h"
#include "bitdial/policies/shared_quantizer.h"

namespace bitdial::policies {

/// LDP: learnable bits per layer under a cost limit (Yu et al. 2022; ldp_rule.h has its formulas).
///
/// One scalar beta per quantised layer sets the forward bits of its W and X; dY has constant bits. After each
/// backward plain SGD moves every beta by the task loss's gradient, which reaches it through the quantisers'
/// steps, and, while the network's cost is at or above the limit, by a penalty of the same mean magnitude.
/// The accumulated micro-batches of a step count as one; clipping of weight gradients does not touch beta.
class LdpPolicy : public SharedPolicy {
 public:
  explicit LdpPolicy(OptionReader& options);

  std::string name() const override { return "ldp"; }
  void attach(std::span<const LayerInfo> layers) override;
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  std::optional<KeptResidual> step_gradients(int layer) const override;
  void observe_step_gradients(TensorId id, const StepInfo& step, const StepGradients& gradients) override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override;
  void end_step(const StepInfo& step, const StepReport& report) override;
  RunControl end_epoch(const EpochReport& report) override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

  double beta(int layer) const { return learnt_.at(static_cast<size_t>(layer)).beta; }
  /// Relative to the same network at Bmax everywhere; layers without beta count at Bmax.
  double cost() const;

 protected:
  SharedBits wanted_bits(int layer) const override;
  void explain(TensorId id, TensorPlan& plan) const override;

 private:
  struct Learnt {
    double beta = 0.0;
    double task = 0.0;   // dL/dbeta of this step so far, or of the last one
    double added = 0.0;  // the last step's penalty
    bool is_complete = true;
  };

  bool learns(size_t layer) const { return !quantizer().is_fixed(static_cast<int>(layer)); }
  double share(size_t layer) const;
  std::vector<double> penalties(const std::vector<size_t>& layers);
  nlohmann::json numbers(int layer) const;

  ldp::BitRange range_;
  int gradient_bits_;
  double beta0_, learning_rate_, alpha_, limit_;
  ldp::CostScope scope_;
  ldp::CostGradient cost_gradient_;
  bool mean_is_ema_;
  bool clamps_every_step_;
  KeptResidual residual_;
  bool logs_all_;

  std::vector<Learnt> learnt_;
  std::optional<double> running_mean_;  // mu
  double last_cost_ = 0.0;              // of the step behind the last update
};

}  // namespace bitdial::policies
