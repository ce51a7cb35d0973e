#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bitdial/core/layer_bits.h"
#include "bitdial/core/policy.h"
#include "bitdial/ops/arithmetic.h"

namespace torch::nn {
class Module;
}

namespace bitdial::nn {

using ops::Arithmetic;
using ops::ReducedAxis;

/// One line of precision.jsonl: an operand's precision was decided anew.
struct PrecisionEvent {
  int64_t step = 0;
  std::string layer;
  TensorRole tensor = TensorRole::kWeight;
  int bits = 32;
  std::optional<float> scale_log2;     ///< log2 of the step, where the tensor has one scale
  std::optional<int> fraction_length;  ///< fixed point only
  /// Of the GEMMs that read the operand, comma-separated where they differ: "int8", "int16", "int8xint16",
  /// "bfloat16", "float32" (LibTorch) or "simulated".
  std::string arithmetic;
  std::string reason;
  nlohmann::json evidence;
};

/// What a network is evaluated in: Policy::evaluation_format or final_evaluation_format.
enum class EvaluationPrecision : uint8_t { kCurrent, kFinal };

struct SessionOptions {
  Arithmetic arithmetic = Arithmetic::kInteger;
  /// Unset: kRequantise in integer arithmetic, kFloat (the papers' form) in simulated.
  std::optional<ReducedAxis> reduced_axis = {};
  uint64_t seed = 0;
  /// Called from end_step, in the order of the decisions.
  std::function<void(const PrecisionEvent&)> on_event = {};
  /// RangeSource::kPrevious: range <- momentum * range + (1 - momentum) * new (in-hindsight estimation, arXiv
  /// 2105.04246); the first range is taken whole.
  double previous_momentum = 0.9;
  /// RangeSource::kPrevious: a step that saturates more than this fraction of a tensor makes the next one
  /// measure it.
  double saturation_limit = 1e-3;
  /// Stages run as fused blocks where they can; otherwise one module after the other.
  bool fused = true;
  /// Of fused blocks. Unset: what the policy asks for.
  std::optional<Between> between = {};
};

/// Where the network's precision stands. Bits are plain means over layers of the last decisions (dY: over
/// both copies where they differ); a layer counts as int8 when all its GEMMs have operands of at most 8 bits,
/// as int16 when all have at most 16, as float otherwise. Shares lie in 0..1.
struct PrecisionSummary {
  double bits_w = 32.0;
  double bits_a = 32.0;
  double bits_dy = 32.0;
  double int8_layers = 0.0;
  double int16_layers = 0.0;
  double float_layers = 1.0;
};

/// The arithmetic that a layer's GEMMs last ran in, by Gemm: "int8", "int16", "int8xint16", "bfloat16",
/// "float32", "simulated" (float arithmetic on quantised values), several with commas where a gate's options
/// differ; empty for one that did not run.
using LayerArithmetic = std::array<std::string_view, kGemms>;

class SessionCore;
class WeightUpdater;

/// Binds one policy to one network: layers ask it how to quantise their operands while the network runs.
///
/// A training step is begin_step, forward (inside a ForwardScope), backward, optimiser, end_step. Modules in
/// training mode quantise as the policy plans; modules in evaluation mode as Policy::evaluation_format says,
/// with the scales and running ranges stored while training (an operand never seen in training is measured).
/// When the session is destroyed its layers go back to float32.
///
/// The policy is asked (plan) and told (observe) once per operand and micro-batch: kWeight, kInput and, when
/// dW is needed and the layer trains, kInputWtgrad in forward; kGradBprop when dX is needed and kGradWtgrad
/// when dW is needed in backward. Where two plans for the same tensor are equal it is quantised once and
/// observed under both names.
class Session {
 public:
  explicit Session(std::shared_ptr<Policy> policy, SessionOptions options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  /// Finds every bitdial::nn layer below `root` in registration order and tells the policy. Once per session;
  /// throws Error if there is none and the policy quantises.
  void attach(torch::nn::Module& root);

  /// attach, and LibTorch's own Conv2d and Linear modules as well (see bitdial/nn/convert.h).
  void attach_foreign(torch::nn::Module& root);

  /// In the order the policy knows; MACs are filled in by the first forward.
  const std::vector<LayerInfo>& layers() const;

  /// For every micro-batch of every training step, before its forward.
  void begin_step(const StepInfo& step);
  /// Once per training step, after its last backward: reports events, then tells the policy.
  void end_step(const StepInfo& step, const StepReport& report);

  PrecisionSummary summary() const;
  /// The word lengths of every layer's operands as last planned in training, in the order of layers(); an
  /// operand that was not asked for yet has 32 bits, or those of the other copy of the same tensor.
  std::vector<LayerBits> layer_bits() const;
  /// In the order of layers().
  std::vector<LayerArithmetic> gemm_arithmetic() const;

  /// Policy state, stored scales and running ranges: load_state(state()) makes evaluation and further
  /// training exact.
  nlohmann::json state() const;
  /// After attach; throws Error unless the layers' names match.
  void load_state(const nlohmann::json& state);

  /// Stages hand the gradients of their weights to `updater` (weight_updater.h) in every backward that frees
  /// its graph and whose layers ran once since begin_step, in place of Tensor::grad. Null: no more. Not
  /// owned.
  void set_weight_updater(WeightUpdater* updater);

  /// Holds from the next forward in evaluation mode on.
  void set_evaluation_precision(EvaluationPrecision precision);
  /// Whether the two differ for any operand of a forward at present.
  bool has_other_final_precision() const;

  Policy& policy();
  const Policy& policy() const;
  const SessionOptions& options() const;

 private:
  friend class ForwardScope;
  std::shared_ptr<SessionCore> core_;
};

/// Open one around forward and loss. Turns bfloat16 autocast on when the policy computes so (its cache of
/// weights is cleared at the end, as by Python's context), and lets converted modules reach their session.
class ForwardScope {
 public:
  explicit ForwardScope(Session& session);
  ~ForwardScope();
  ForwardScope(const ForwardScope&) = delete;
  ForwardScope& operator=(const ForwardScope&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitdial::nn
