#include "bitdial/nn/step_gradient_tape.h"

#include "bitdial/core/error.h"
#include "bitdial/ops/rounding_residual.h"

namespace bitdial::nn {

StepGradientTape::Record StepGradientTape::from_values(const at::Tensor& x,
                                                       const ops::QuantizedTensor& codes) {
  return {.values = x, .residual = {}, .quantized = codes, .version = x._version()};
}

void StepGradientTape::keep_weight(const at::Tensor& weight, const ops::QuantizedTensor& codes) {
  weight_ = from_values(weight, codes);
}

void StepGradientTape::keep_input(const at::Tensor& x, const ops::QuantizedTensor& codes) {
  input_ = from_values(x, codes);
  if (kept_ == KeptResidual::kRecompute) return;
  input_.residual = ops::rounding_residual(x, codes);
  if (kept_ == KeptResidual::kInt8) input_.residual = ops::pack_residual(input_.residual);
  input_.values.reset();
  input_.quantized.codes.reset();
}

std::optional<StepGradients> StepGradientTape::gradients(const Record& record, const at::Tensor& gradient) {
  if (!gradient.defined() || record.quantized.params.empty()) return std::nullopt;
  at::Tensor residual = record.residual;
  if (!residual.defined()) {
    require(record.values._version() == record.version, "session",
            "a tensor whose rounding errors backward computes again was changed in place; keep them instead "
            "(option residual of ldp)");
    residual = ops::rounding_residual(record.values, record.quantized);
  }
  return StepGradients{.by_step = ops::step_gradients(gradient, residual, record.quantized.params.size()),
                       .params = record.quantized.params,
                       .word_length = record.quantized.format.word_length};
}

}  // namespace bitdial::nn
