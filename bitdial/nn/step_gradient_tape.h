#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "bitdial/core/policy.h"
#include "bitdial/ops/quantized_tensor.h"

namespace bitdial::nn {

/// What one call of a layer keeps so that backward can tell a policy dL/ds of W and X.
class StepGradientTape {
 public:
  explicit StepGradientTape(KeptResidual kept) : kept_(kept) {}

  /// Dense tensors and the codes that FPROP reads.
  void keep_weight(const at::Tensor& weight, const ops::QuantizedTensor& codes);
  void keep_input(const at::Tensor& x, const ops::QuantizedTensor& codes);

  /// From dW and dX; nothing where one of the two is missing. Throws Error when a tensor that the residual is
  /// computed from was changed in the meantime.
  std::optional<StepGradients> weight(const at::Tensor& dw) const { return gradients(weight_, dw); }
  std::optional<StepGradients> input(const at::Tensor& dx) const { return gradients(input_, dx); }

 private:
  struct Record {
    at::Tensor values;               ///< with `codes`; or else
    at::Tensor residual;             ///< float32 or int8
    ops::QuantizedTensor quantized;  ///< codes only beside `values`
    int64_t version = 0;
  };
  static Record from_values(const at::Tensor& x, const ops::QuantizedTensor& codes);
  static std::optional<StepGradients> gradients(const Record& record, const at::Tensor& gradient);

  KeptResidual kept_;
  Record weight_, input_;
};

}  // namespace bitdial::nn
