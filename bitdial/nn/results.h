#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

namespace bitdial::nn {

class LayerBinding;

/// The results of a layer, and of normalisations and pools behind it, as Policy::results asks: float values
/// on the grid that the policy plans for the layer's kOutput or kGradInput.

/// y on its grid; gradients pass unchanged.
at::Tensor quantize_output(const std::shared_ptr<LayerBinding>& layer, const at::Tensor& y, bool training);

/// x itself; its gradient is put on its grid.
at::Tensor quantize_gradient(const std::shared_ptr<LayerBinding>& layer, const at::Tensor& x, bool training);

/// Replaces the data of x by its values on the grid of kInput, behind autograd's back.
void overwrite_input(const std::shared_ptr<LayerBinding>& layer, const at::Tensor& x, bool training);

}  // namespace bitdial::nn
