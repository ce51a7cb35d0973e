#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bitdial/policies/pfq_indicator.h"
#include "bitdial/policies/shared_quantizer.h"

namespace bitdial::policies {

/// PFQ, the progressive half of FracTrain: Fu et al., NeurIPS 2020 (arXiv 2012.13113). The whole network
/// trains with F[k] bits for W and X and G[k] bits for dY; k rises, once the loss hardly changes any more at
/// the present precision.
class PfqPolicy : public SharedPolicy {
 public:
  explicit PfqPolicy(OptionReader& options);

  std::string name() const override { return "pfq"; }
  Format evaluation_format(TensorId id) const override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override;
  void end_step(const StepInfo& step, const StepReport& report) override;
  RunControl end_epoch(const EpochReport& report) override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

  const PfqIndicator& indicator() const { return indicator_; }

 protected:
  SharedBits wanted_bits(int layer) const override;
  void explain(TensorId id, TensorPlan& plan) const override;

 private:
  void end_losses();
  Format stage_format(TensorId id, int k) const;

  std::vector<int> F_, G_;
  std::optional<double> eval_every_;   // iterations; empty: the run's epochs
  std::optional<double> weight_bits_;  // empty: F[k]
  PfqIndicator indicator_;
  nlohmann::json evidence_;  // of the last switch
  double loss_sum_ = 0.0;    // since the indicator was asked
  int64_t losses_ = 0;
};

/// "3,4,6,8/6,6,8,8": the lists F and G.
nlohmann::json pfq_argument(std::string_view text);

}  // namespace bitdial::policies
