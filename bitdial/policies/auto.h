#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/policies/apt.h"
#include "bitdial/policies/options.h"

namespace bitdial::policies {

/// Word lengths that a layer's operands need.
struct Widths {
  int w = 8, x = 8, dy = 8;
  bool operator==(const Widths&) const = default;
};

/// What each GEMM of a layer runs on, and the predicted time of all of them with the passes that make their
/// operands.
struct Choice {
  std::array<GemmArithmetic, kGemms> gemms{};
  double seconds = 0.0;
};

/// The integer arithmetic of a GEMM whose operands have these widths; kFloat32 where one has more than 16
/// bits.
GemmArithmetic narrowest(Gemm gemm, const Widths& widths);

struct ChoiceOptions {
  bool has_bprop = true;                ///< false for the first layer: nobody reads its dX
  bool bfloat16 = true;                 ///< whether bfloat16 is among the candidates
  Between between = Between::kFloat32;  ///< what X, Y and their gradients are when no GEMM reads them
};

/// The fastest combination of the narrowest sufficient integers, bfloat16 and float32 for a layer's GEMMs.
/// An operand that two GEMMs share in one form is made once. Integers stay unless another combination is
/// faster by 10 %.
Choice fastest(Timings& timings, int layer, const Widths& widths, const ChoiceOptions& options = {});

/// A layer's GEMMs and passes, all on one arithmetic.
double uniform_seconds(Timings& timings, int layer, GemmArithmetic arithmetic,
                       const ChoiceOptions& options = {});

/// Per layer and GEMM the arithmetic that is fastest on this machine among int8, int16, bfloat16 and float32,
/// of those whose quantisation error stays within APT's bounds: QEM and QPA of `apt` say how many bits each
/// operand needs (the exponent's own step is never finer than the formats used here, which are those of
/// `static`). The first step runs on integers everywhere and shows what they must be.
class AutoPolicy : public Policy {
 public:
  explicit AutoPolicy(OptionReader& options);

  std::string name() const override { return "auto"; }
  nlohmann::json options() const override { return options_; }
  void attach(std::span<const LayerInfo> layers) override;
  bool needs_timings() const override { return true; }
  void set_timings(std::shared_ptr<Timings> timings) override { timings_ = std::move(timings); }
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  void end_step(const StepInfo& step, const StepReport& report) override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override;
  Format evaluation_format(TensorId id) const override;
  RunningRange running_range(TensorId id) const override;
  Between between() const override { return between_; }
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

 private:
  struct Layer {
    Widths measured;         ///< what the present choice was made for
    bool is_chosen = false;  ///< by time, not only by width
    std::array<bool, kGemms> is_float{}, is_bfloat16{};
    std::array<Format, kTensorRoles> announced{};  ///< last format in the log
    std::array<bool, kTensorRoles> is_announced{};
  };

  Widths widths(int layer) const;
  int width(int layer, TensorRole role) const;
  GemmArithmetic arithmetic(int layer, Gemm gemm) const { return arithmetic(layer, gemm, widths(layer)); }
  GemmArithmetic arithmetic(int layer, Gemm gemm, const Widths& widths) const;
  Format format(TensorId id, const Widths& widths) const;
  void choose(int layer, const Widths& widths, Timings& timings);
  void announce(TensorId id, const TensorPlan& measured, TensorPlan& plan);
  ChoiceOptions choice_options(int layer) const;
  nlohmann::json gemms_of(int layer, const Widths& widths) const;
  nlohmann::json times_of(int layer) const;

  AptPolicy apt_;  ///< measures errors; its formats are not used
  bool allow_bfloat16_ = true;
  RangeSource range_ = RangeSource::kPrevious;
  Rounding gradient_rounding_ = Rounding::kStochastic;
  Between between_ = Between::kBFloat16;
  nlohmann::json options_;
  std::shared_ptr<Timings> timings_;
  std::vector<Layer> chosen_;
};

}  // namespace bitdial::policies
