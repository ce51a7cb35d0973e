#pragma once

#include <torch/torch.h>

#include "bitdial/nn/quantized_layer.h"

namespace bitdial::nn {

/// torch::nn::Linear (same options, parameters and initialisation) whose three GEMMs run in the precision of
/// the session that the layer is attached to; float32 without one.
class LinearImpl : public torch::nn::LinearImpl, public QuantizedLayer {
 public:
  LinearImpl(int64_t in_features, int64_t out_features)
      : LinearImpl(torch::nn::LinearOptions(in_features, out_features)) {}
  explicit LinearImpl(const torch::nn::LinearOptions& options) : torch::nn::LinearImpl(options) {}

  /// x [..., in_features]; dimension 0 is the sample of per-sample formats.
  torch::Tensor forward(const torch::Tensor& x);

  LayerInfo describe() const override;
  void pretty_print(std::ostream& stream) const override;
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;
};
TORCH_MODULE(Linear);

}  // namespace bitdial::nn
