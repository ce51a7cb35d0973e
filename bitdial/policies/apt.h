#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/policies/options.h"

namespace bitdial::policies {

/// APT: Zhang et al. 2020, "Fixed-Point Back-Propagation Training" (arXiv 1911.00361). Every tensor that
/// enters a product (X, W, dY of each layer) has a symmetric format with a power-of-two step. QEM measures
/// how much absolute mass the quantiser destroys; QPA widens the tensor while that exceeds T and sets the
/// interval until the next measurement. One quantised dY feeds both BPROP and WTGRAD.
class AptPolicy : public Policy {
 public:
  explicit AptPolicy(OptionReader& options);

  std::string name() const override { return "apt"; }
  nlohmann::json options() const override { return options_; }
  void attach(std::span<const LayerInfo> layers) override;
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  void observe(TensorId id, const StepInfo& step, const QuantizeStatistics& statistics) override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override;
  Format evaluation_format(TensorId id) const override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

  /// What one tensor remembers, in the paper's letters.
  struct Tensor {
    int n = 8;               ///< word length
    int s = 0;               ///< exponent of the step 2^s
    double M = 100.0;        ///< moving average of s
    int64_t next = 0;        ///< step of the next measurement
    bool measured = false;   ///< at least once
    bool fresh = false;      ///< the present plan comes from a measurement of this very tensor
    double saturated = 0.0;  ///< share that forces the next measurement; 0: none pending
    int64_t last_step = -1;  ///< of the last plan
    int last_micro_batch = -1;
    unsigned asked = 0;  ///< roles that the present quantised tensor was asked for, one bit each

    bool operator==(const Tensor&) const = default;
  };
  const Tensor& tensor(TensorId id) const;

  /// QEM: log2(|mean|x| - mean|x^|| / mean|x| + 1); 0 when mean|x| = 0. Sums serve as well as means.
  static double quantization_error(double abs_sum, double quantized_abs_sum);

  /// QPA's interval: clip(round(beta / max(I1, I2) - gamma), 1, E); E when both are 0.
  int64_t interval(double I1, double I2, int64_t E) const;

 private:
  struct Measurement;

  Tensor& mutable_tensor(TensorId id);
  bool reuses_quantized(Tensor& tensor, TensorRole role, const StepInfo& step) const;
  bool measures(const Tensor& tensor, int64_t step) const;
  Measurement measure(Tensor& tensor, TensorId id, const StepInfo& step, TensorProbe& probe) const;
  void widen(Tensor& tensor, TensorId id, const StepInfo& step, Measurement& measurement,
             TensorProbe& probe) const;
  void schedule(Tensor& tensor, const StepInfo& step, Measurement& measurement) const;
  void explain(const Tensor& before, const Tensor& after, const Measurement& measurement,
               TensorPlan& plan) const;
  Format format(int word_length) const;
  float error_step(float Z, const Tensor& tensor) const;
  double threshold(int layer) const;

  double alpha_, beta_, gamma_, delta_;
  double T_conv_, T_linear_;
  int n0_, n_max_, increment_;
  double quantify_rate_;
  std::optional<double> steps_per_epoch_;  // empty: the run's own
  std::optional<double> M0_;               // empty: the first s
  ScaleRule exponent_rule_;
  ScaleRule error_grid_;
  bool restart_;
  bool I1_new_;
  bool truncate_;
  bool saturation_guard_;
  double saturation_fraction_;
  bool log_all_;
  nlohmann::json options_;
  std::vector<std::array<Tensor, 3>> tensors_;  // per layer: W, X, dY
};

}  // namespace bitdial::policies
