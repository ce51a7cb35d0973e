#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "bitdial/policies/shared_quantizer.h"

namespace bitdial::policies {

/// CPT: Fu et al., ICLR 2021, "Cyclic Precision Training" (arXiv 2101.09868). The forward bits of the whole
/// network rise from Bmin to Bmax along half a cosine, N times in T iterations; gradient bits do the same
/// between their own bounds, which are equal in all published experiments.
///
///   P   = floor(T / N)
///   tau = (t mod P) / P
///   b_t = round(Bmin + (Bmax - Bmin) (1 + cos(pi tau + pi)) / 2)
///
/// Evaluation runs at the precision of the last iteration; the final precision is Bmax.
class CptPolicy : public SharedPolicy {
 public:
  explicit CptPolicy(OptionReader& options);

  std::string name() const override { return "cpt"; }
  void begin_step(const StepInfo& step) override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override;
  bool has_final_precision() const override { return true; }
  Format final_evaluation_format(TensorId id) const override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

  struct Bounds {
    int minimum = 3;
    int maximum = 8;
    bool operator==(const Bounds&) const = default;
  };
  const Bounds& forward_bounds() const { return forward_; }    ///< Bmin, Bmax
  const Bounds& gradient_bounds() const { return gradient_; }  ///< Gmin, Gmax

 protected:
  SharedBits wanted_bits(int) const override { return now_; }
  void explain(TensorId id, TensorPlan& plan) const override;

 private:
  Bounds forward_, gradient_;
  int64_t N_;
  std::optional<double> T_;           // empty: the steps of the run
  std::optional<double> final_bits_;  // empty: Bmax
  SharedBits now_;
  int64_t t_ = 0;
  int64_t iterations_ = 0;  // T as used; 0: before the first step
};

/// "3-8/8": bounds of the forward bits, and the gradient bits; "3-8/6-8" lets the gradient bits cycle too.
nlohmann::json cpt_argument(std::string_view text);

}  // namespace bitdial::policies
