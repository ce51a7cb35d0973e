#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/policies/muppet_rules.h"
#include "bitdial/policies/options.h"

namespace bitdial::policies {

/// MuPPET: Rajagopal et al. 2020, "Multi-Precision Policy Enforced Training" (ICML 2020, arXiv 2006.09049;
/// specs: muppet.md). One word length for the whole network, raised 8 -> 12 -> 14 -> 16 -> float32 when the
/// diversity of epoch-end gradients falls off. Every tensor is a block floating point with one power-of-two
/// scale. The parameters, their gradients, the images (one by one), the results of layers and average pools
/// and the gradients w.r.t. their inputs are quantised; the learning rate stays constant until float32.
class MuppetPolicy : public Policy, public ParameterRule {
 public:
  explicit MuppetPolicy(OptionReader& options);

  std::string name() const override { return "muppet"; }
  nlohmann::json options() const override { return options_; }
  void set_arithmetic(bool is_integer) override;
  void attach(std::span<const LayerInfo> layers) override;
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  void end_step(const StepInfo& step, const StepReport& report) override;
  RunControl control(const StepInfo& step) override;
  Format evaluation_format(TensorId id) const override;
  std::optional<QuantParams> evaluation_params(TensorId id, TensorProbe& probe) const override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override;
  ResultQuantization results() const override;
  ParameterRule* parameter_rule() override { return this; }
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

  void attach_parameters(std::span<const ParameterInfo> parameters) override;
  TensorPlan working(int parameter, TensorProbe& master) override;
  TensorPlan gradient(int parameter, TensorProbe& gradient) override;
  void update(const ParameterUpdate& update) override;
  bool decays_weights() const override { return is_fixed(); }
  std::vector<std::pair<std::string, std::span<float>>> buffers() override;

  /// Bits of the present level; 32: float32.
  int word_length() const;

 private:
  bool is_fixed() const;
  Format format(Granularity granularity = Granularity::kTensor) const;
  int64_t epoch_steps(const StepInfo& step) const;
  bool ends_epoch(const StepInfo& step) const;
  void end_fixed_epoch(int64_t epoch);
  void end_float_epoch();
  void evaluate(int64_t epoch);
  struct Judgement {
    bool is_over = false;  ///< the level
    int violations = 0;
    nlohmann::json evidence;
  };
  Judgement judge(int64_t epoch, double gd);
  void raise_level(const std::string& why, nlohmann::json evidence);
  double mean_diversity() const;

  DiversityWindow window_;
  bool layers_only_;
  Rounding rounding_;
  int r_, gamma_;
  MuppetThreshold T_;
  int fp32_epochs_per_lr_;
  double lr_factor_, min_lr_;
  bool released_stop_;
  std::vector<int> static_schedule_;
  int epoch_iterations_;
  std::optional<bool> quantise_operands_choice_;  // empty: in integer arithmetic
  bool quantise_results_;
  nlohmann::json options_;

  bool quantise_operands_ = false;
  std::vector<ParameterInfo> parameters_;
  std::vector<std::optional<QuantParams>> weight_params_;  // per layer, of the working values

  // What the next decision depends on.
  size_t level_ = 0;
  ViolationCount violations_;
  FloatPhase float_phase_;
  std::optional<double> learning_rate_;
  bool follows_schedule_ = true;  // whose rates still rise: a warm-up
  bool stop_ = false;
  std::vector<GradientDiversity> diversity_;  // per parameter
  struct Announcement {
    std::string reason;
    nlohmann::json evidence;
  };
  std::vector<std::optional<Announcement>> announcements_;  // per layer, for its next plan of W

  int64_t replayed_epoch_ = -1;  // of the last evaluation that redecide saw
  nlohmann::json replayed_;
};

}  // namespace bitdial::policies
