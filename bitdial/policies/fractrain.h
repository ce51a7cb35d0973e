#pragma once

#include <optional>
#include <string>

#include "bitdial/policies/dfq.h"
#include "bitdial/policies/pfq_indicator.h"

namespace bitdial::policies {

/// FracTrain (Fu et al. 2020): DFQ, whose target PFQ's indicator raises, t0 + k delta percent of float32's
/// cost for k = 0 .. 3. The losses that the indicator sees include the cost term.
class FracTrainPolicy : public DfqPolicy {
 public:
  explicit FracTrainPolicy(OptionReader& options);

  std::string name() const override { return "fractrain"; }
  void end_step(const StepInfo& step, const StepReport& report) override;
  RunControl end_epoch(const EpochReport& report) override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

 protected:
  nlohmann::json numbers() const override;
  double target_again(const nlohmann::json& evidence) const override;

 private:
  void end_losses();
  void follow_indicator() { set_target(t0_ + delta_ * indicator_.stage()); }

  double t0_, delta_;
  std::optional<double> eval_every_;  // steps; empty: an epoch
  PfqIndicator indicator_;
  nlohmann::json verdict_;  // of the last switch
  double loss_sum_ = 0.0;   // since the indicator was asked
  int64_t losses_ = 0;
};

}  // namespace bitdial::policies
