#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bitdial/nn/operand_source.h"
#include "bitdial/nn/option_scope.h"
#include "bitdial/nn/session_core.h"
#include "bitdial/nn/step_gradient_tape.h"

namespace bitdial::nn {

/// The operands of one call of one layer: asks the policy for each precision, quantises, and keeps what later
/// steps and evaluation need.
class LayerOperands : public ops::Operands {
 public:
  /// `shape`: of the convolution, where it is known before the operands come.
  LayerOperands(std::shared_ptr<LayerBinding> layer, bool training,
                const std::optional<kernels::ConvShape>& shape = {})
      : layer_(std::move(layer)), training_(training), shape_(shape) {}

  ops::ForwardOperands forward(const at::Tensor& x, const at::Tensor& weight, ops::Needed needed) override;
  ops::ForwardOperands forward(OperandSource& x, const at::Tensor& weight, ops::Needed needed);
  ops::BackwardOperands backward(const at::Tensor& dy, ops::Needed needed) override;
  ops::BackwardOperands backward(OperandSource& dy, ops::Needed needed);
  int layer() const override;
  bool wants_input_gradient() const override { return layer_->step_gradients(training_).has_value(); }
  void observe_gradients(const at::Tensor& dx, const at::Tensor& dw) override;
  /// Whether observe_gradients looks at them in this step.
  bool watches_gradients() const { return tape_.has_value(); }

  /// `x` as values of the grid that the policy plans for `role`, without a graph.
  at::Tensor on_grid(TensorRole role, const at::Tensor& x);

  /// Updates the weight by its gradient at once, if the session has someone who does that.
  bool update_weight(const at::Tensor& weight, const at::Tensor& gradient);

 private:
  struct Wanted {
    bool kept = false;
    bool whole = false;
  };
  /// The scales of one quantise, and the ranges that they came from where the tensor was measured.
  struct Scales {
    std::vector<QuantParams> params;
    std::vector<Range> ranges;
  };
  /// An operand's two copies: `whole` has one scale, for the GEMM that reduces the scale axis of `kept`.
  struct Copies {
    ops::QuantizedTensor kept;
    ops::QuantizedTensor whole;
  };

  std::shared_ptr<SessionCore> core() const;
  TensorId id(TensorRole role) const;
  const std::string& name() const;
  TensorPlan plan(TensorRole role, TensorProbe& probe);
  Copies quantize(TensorRole role, OperandSource& x, const TensorPlan& plan, Wanted wanted);
  Scales choose_scales(TensorRole role, OperandSource& x, const TensorPlan& plan);
  std::optional<QuantParams> unmeasured_params(TensorRole role, const Format& format,
                                               const std::optional<QuantParams>& prescribed) const;
  std::optional<Range> stored_range(TensorRole role, const Format& format) const;
  void check_finite(TensorRole role, const Range& range) const;
  RandomKey key(TensorRole role);
  std::optional<QuantParams> next_weight_params() const;
  void remember(TensorRole role, const TensorPlan& plan, const Scales& scales,
                const QuantizeStatistics& statistics);
  void update_ranges(TensorRole role, TensorRecord& record, const Format& format, const Scales& scales,
                     const QuantizeStatistics& statistics);
  void observe(TensorRole role, const QuantizeStatistics& statistics);
  void announce_wtgrad(OperandSource& dy) const;
  void observe_again(TensorRole role, const TensorPlan& plan);
  void note(Gemm gemm, const ops::QuantizedTensor& a, bool keeps_axis_of_a, const ops::QuantizedTensor& b,
            bool keeps_axis_of_b);

  std::shared_ptr<LayerBinding> layer_;
  bool training_;
  std::optional<kernels::ConvShape> shape_;
  const OptionScope::Values option_ = OptionScope::current();
  ops::QuantizedTensor w_bprop_;   // without codes
  ops::QuantizedTensor x_wtgrad_;  // without codes
  QuantizeStatistics last_statistics_;
  std::optional<StepGradientTape> tape_;
};

}  // namespace bitdial::nn
