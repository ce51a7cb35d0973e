#pragma once

#include <string>
#include <vector>

#include "bitdial/policies/dfq_rule.h"
#include "bitdial/policies/shared_quantizer.h"

namespace bitdial::policies {

/// DFQ, the input-adaptive half of FracTrain (Fu et al. 2020; dfq_rule.h has its formulas): a gate chooses
/// for each residual block and sample one of K pairs (bits of X, bits of dY); W has constant bits. A term of
/// the loss holds the average cost at a target percentage of float32's. Layers outside of residual blocks
/// stay in float32; depth-wise convolutions have 8 bits forward and 16 bits gradient.
class DfqPolicy : public Policy {
 public:
  explicit DfqPolicy(OptionReader& options);

  std::string name() const override { return "dfq"; }
  nlohmann::json options() const override { return options_; }
  void attach(std::span<const LayerInfo> layers) override;
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  Format evaluation_format(TensorId id) const override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override;
  RunningRange running_range(TensorId id) const override { return quantizer_.running_range(id.role); }
  std::optional<GateRequest> gate() const override { return request_; }
  std::vector<double> weigh_gate(const GateUse& use, const StepInfo& step) override;
  std::optional<double> mean_bits(TensorId id) const override;
  double bits_covariance(int layer) const override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

  const std::vector<dfq::Option>& choices() const { return choices_; }
  /// In percent of float32's cost.
  double target() const { return target_; }
  /// Percent of float32's cost that the last batch's choices made, and the sign that followed.
  double cost_percent() const { return last_.cost; }
  double r() const { return last_.r; }

 protected:
  /// What another policy with the same gate (FracTrain) has otherwise; without a target here it sets one.
  struct Released {
    std::optional<double> target;
    std::string middle;
  };
  DfqPolicy(OptionReader& options, const Released& released);

  bool is_imagenet() const { return preset_ == Preset::kImageNet; }
  void set_target(double percent) { target_ = percent; }
  /// The next batch's plans carry the gate's numbers.
  void report() { wants_report_ = true; }
  /// The target that follows from these logged numbers.
  virtual double target_again(const nlohmann::json& /*evidence*/) const { return target_; }
  /// What precision.jsonl says of the gate.
  virtual nlohmann::json numbers() const;
  void keep_options(const OptionReader& options) { options_ = options.resolved(); }

 private:
  enum class Preset : uint8_t { kCifar, kMobileNetV2, kImageNet };
  struct Last {
    double cost = 0.0;
    double r = 0.0;
    double term = 0.0;           // of the loss
    std::vector<double> shares;  // of the choices, by option
    // What else the cost follows from. Blocks of unequal size: the shares weighted by it, and what does not
    // depend on them, relative to the size of all blocks.
    std::vector<double> weighted_shares;
    double constant = 0.0;
    double batch = 0.0;
  };

  static Preset read_preset(OptionReader& options);
  void keep_choices(const std::vector<int>& activation, const std::vector<int>& gradient);
  dfq::BlockSizes sizes_of(const GateUse& use) const;
  bool is_chosen(int layer) const;
  /// Of a number per choice, over the last step's samples.
  template <class Number>
  double mean(const Number& number) const {
    double sum = 0.0;
    for (size_t i = 0; i < choices_.size(); ++i) sum += last_.shares[i] * number(choices_[i]);
    return sum;
  }
  double cost_again(const nlohmann::json& evidence) const;
  std::string why(TensorId id, const Format& format) const;

  Preset preset_;
  SharedQuantizer quantizer_;
  nlohmann::json options_;
  GateRequest request_;
  std::vector<dfq::Option> choices_;
  int weight_bits_;
  double beta_, target_ = 0.0, relax_;
  bool is_capped_;
  dfq::Middle middle_;
  int nominal_batch_;  // 0: the batch's own size
  int log_every_;

  Last last_;
  std::vector<std::array<bool, kTensorRoles>> announced_;  // per layer
  std::vector<bool> is_gated_;                             // per layer, once it was asked about
  bool wants_report_ = false;
  nlohmann::json report_;  // the gate's numbers, for its next plan; null: none
};

}  // namespace bitdial::policies
