#pragma once

#include <torch/torch.h>

#include <optional>

#include "bitdial/nn/quantized_layer.h"
#include "bitdial/ops/gemm.h"

namespace bitdial::nn {

/// torch::nn::Conv2d (same options, parameters and initialisation) whose three GEMMs run in the precision of
/// the session that the layer is attached to; float32 without one. The weight lies in channels_last memory,
/// so that neither quantising it nor accumulating its gradient reorders it.
class Conv2dImpl : public torch::nn::Conv2dImpl, public QuantizedLayer {
 public:
  Conv2dImpl(int64_t in_channels, int64_t out_channels, torch::ExpandingArray<2> kernel_size)
      : Conv2dImpl(torch::nn::Conv2dOptions(in_channels, out_channels, kernel_size)) {}
  explicit Conv2dImpl(torch::nn::Conv2dOptions options);

  /// x [N, C, H, W] or [C, H, W].
  torch::Tensor forward(const torch::Tensor& x);

  /// The convolution as its GEMMs see it; none where padding is no symmetrical border of zeros.
  std::optional<ops::ConvOptions> gemm_options() const;

  LayerInfo describe() const override;
  void pretty_print(std::ostream& stream) const override;
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;
};
TORCH_MODULE(Conv2d);

}  // namespace bitdial::nn
