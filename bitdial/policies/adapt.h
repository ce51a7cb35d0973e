#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/policies/adapt_rules.h"
#include "bitdial/policies/adapt_search.h"
#include "bitdial/policies/options.h"

namespace bitdial::policies {

/// AdaPT: Kummer et al. 2021-2023, "Fast Sparsifying Adaptive Precision Training" (arXiv 2107.13490, SDM
/// 2023; specs: adapt.md), with its earlier forms ADEPT and MARViN. Each layer owns a fixed-point format
/// <WL,FL> for its parameters, their gradients, its input and its output. After each `lookback` updates
/// PushDown shrinks the format as far as the weights' histogram allows, PushUp widens it again by the
/// diversity of the gathered gradients. Gradients are quantised, then normalised; L1 and coarse grids make
/// the weights sparse. Errors (dY) stay float32.
///
/// The paper's `accs` is the recipe's train.micro_batches, its L2 the optimiser's weight decay on the
/// masters.
class AdaptPolicy : public Policy, public ParameterRule {
 public:
  enum class GradientNorm : uint8_t { kUnit, kClip, kNone };

  /// `name`: "adapt", "adept" or "marvin"; their options differ in defaults.
  AdaptPolicy(std::string name, OptionReader& options);

  std::string name() const override { return name_; }
  nlohmann::json options() const override { return options_; }
  void attach(std::span<const LayerInfo> layers) override;
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  Format evaluation_format(TensorId id) const override;
  Initializer initializer() const override { return Initializer::kTruncatedNormal; }
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override;
  ResultQuantization results() const override;
  ParameterRule* parameter_rule() override { return this; }
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

  void attach_parameters(std::span<const ParameterInfo> parameters) override;
  TensorPlan working(int parameter, TensorProbe& master) override;
  void observe_working(int parameter, std::span<const float> working) override;
  void begin_update(const StepInfo& step, double loss, int64_t micro_batches) override;
  void prepare(const ParameterUpdate& update) override;
  TensorPlan gradient(int parameter, TensorProbe& gradient) override;
  void update(const ParameterUpdate& update) override;
  void end_step(const StepInfo& step, const StepReport& report) override;
  std::vector<std::pair<std::string, std::span<float>>> buffers() override;

  /// What one parameter remembers, in the paper's letters.
  struct Tensor {
    FixedPoint format;
    int r = 50;     ///< resolution: bins of the histogram
    int lb = 25;    ///< lookback: updates to gather
    int64_t n = 0;  ///< gathered
    bool operator==(const Tensor&) const = default;
  };
  const std::vector<Tensor>& tensors() const { return tensors_; }
  AdaptStrategy strategy() const { return loss_.strategy; }
  /// Share of zeros in a parameter's working values, and their mean over parameters.
  double zero_fraction(int parameter) const { return zeros_.at(static_cast<size_t>(parameter)); }
  /// P = mean of (WL / 32) * share of non-zeros.
  double penalty() const;

 private:
  struct Announcement {
    std::string reason;
    nlohmann::json evidence;
  };

  void read_formats(OptionReader& options);
  void read_search(OptionReader& options);
  void read_gradients(OptionReader& options, bool is_marvin);
  bool has_formats_of_its_own(size_t parameter) const { return parameters_[parameter].shape.size() >= 2; }
  Format format(FixedPoint fixed) const;
  /// Returns the norm that is left: 1 or 0 with kUnit.
  double normalize(std::span<float> gradient) const;
  /// A tensor that has gathered its gradients; `master` as at the update, lb and r as before it.
  struct ClosedWindow {
    size_t parameter = 0;
    double D = 0.0;
    std::span<const float> master;
    int lb_before = 0, r_before = 0;
  };
  struct Switch {
    FixedPoint before{};
    int lb = 0, r = 0;
    AdaptStrategy strategy = AdaptStrategy::kMin;
    PushDownResult down{};
    PushUpResult up{};
    std::vector<RaisedFormat> gradient_formats{};  // kKlGradients
  };
  void gather(const ParameterUpdate& update, double norm);
  void switch_formats(const StepInfo& step);
  Switch decide(const ClosedWindow& window, const StepInfo& step) const;
  void apply(const ClosedWindow& window, const Switch& change, double P);
  Announcement announce(const ClosedWindow& window, const Switch& change, double P) const;
  /// The numbers of a decision that follow from other logged ones, for the log and for its replay.
  static nlohmann::json evidence_of(const Switch& change);
  /// Fills in what PushUp makes of the rest.
  void push_up_by(double D, Switch& change) const;
  /// What each gathered gradient wants.
  std::vector<RaisedFormat> gradient_formats(size_t parameter, FixedPoint reduced,
                                             const StepInfo& step) const;
  /// The decision that the log's numbers lead to; nothing where they close no window.
  std::optional<Switch> switch_again(FixedPoint before, const nlohmann::json& evidence) const;
  std::span<const float> searched(size_t parameter, std::span<const float> values) const;

  std::string name_;
  FixedPoint start_;
  PushDownOptions push_down_;
  PushUpOptions push_up_;
  LookbackOptions lookback_;
  int r_lwr_ = 50, r_upr_ = 150;
  AdaptStrategy first_strategy_ = AdaptStrategy::kMin;
  bool released_mean_ = false;
  bool quant_in_ = true, quant_out_ = true, quant_grads_ = true, quantise_results_ = true;
  bool inplace_inputs_ = false;
  double l1_ = 1e-4;
  bool has_penalty_ = true;
  GradientNorm gradient_norm_ = GradientNorm::kUnit;
  uint64_t seed_ = 0;
  nlohmann::json options_;

  std::vector<ParameterInfo> parameters_;
  std::vector<FixedPoint> layer_formats_;  // of the layers' weights
  std::vector<Tensor> tensors_;
  std::vector<std::vector<float>> G_;         // sum of the gathered gradients
  std::vector<std::vector<float>> gathered_;  // kKlGradients: each of them
  std::vector<double> zeros_;                 // share of zeros in the working values
  std::vector<double> abs_sums_;              // of the working values
  std::vector<ClosedWindow> closed_;          // of this step
  StrategyState loss_;
  StrategyChoice choice_;                                   // of this step
  std::vector<std::optional<Announcement>> announcements_;  // per layer, for its next plan of W
};

}  // namespace bitdial::policies
