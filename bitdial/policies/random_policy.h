#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bitdial/policies/shared_quantizer.h"

namespace bitdial::policies {

/// Table 2 of LDP (Yu et al. 2022, arXiv 2203.07713): bits drawn at random from a short list every k
/// iterations, and 8 bits from the last learning rate's phase on. What a schedule must beat.
class RandomPolicy : public SharedPolicy {
 public:
  explicit RandomPolicy(OptionReader& options);

  std::string name() const override { return "random"; }
  void begin_step(const StepInfo& step) override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

  /// The bits of a layer in a step of a run of `total_steps`: a function of the options alone.
  int bits(int64_t step, int64_t total_steps, int layer) const;

 protected:
  SharedBits wanted_bits(int layer) const override;
  void explain(TensorId id, TensorPlan& plan) const override;

 private:
  std::vector<int> choices_;
  int every_;
  double share_;
  int final_bits_;
  bool gradient_is_same_;
  bool is_per_layer_;
  int seed_;
  int64_t step_ = 0;
  int64_t total_steps_ = 1;
};

}  // namespace bitdial::policies
