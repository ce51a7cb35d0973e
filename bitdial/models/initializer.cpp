#include "bitdial/models/initializer.h"

#include <cmath>

#include "bitdial/core/error.h"
#include "bitdial/nn/linear.h"

namespace bitdial::models {

namespace {

// By the inverse of the normal distribution's function: erf(x / (sigma sqrt 2)) is uniform.
void draw_truncated_normal(torch::Tensor weight, double scale) {
  const double fan_in = static_cast<double>(weight.numel()) / static_cast<double>(weight.size(0));
  const double sigma = std::sqrt(scale / fan_in);
  const double bound = std::sqrt(3.0) * sigma;
  const double reach = std::erf(bound / (sigma * std::sqrt(2.0)));
  weight.uniform_(-reach, reach).erfinv_().mul_(sigma * std::sqrt(2.0)).clamp_(-bound, bound);
}

}  // namespace

void init_truncated_normal(torch::nn::Module& network, double scale, BiasBound bias_bound) {
  const torch::NoGradGuard no_grad;
  for (const auto& module : network.modules()) {
    const auto parameters = module->named_parameters(/*recurse=*/false);
    const torch::Tensor* const weight = parameters.find("weight");
    if (weight == nullptr) continue;
    const bool is_layer = weight->dim() > 1;  // else a normalisation
    if (is_layer) {
      draw_truncated_normal(*weight, scale);
    } else {
      weight->fill_(1.0);
    }
    if (const torch::Tensor* const bias = parameters.find("bias")) {
      const bool by_channels = is_layer && bias_bound == BiasBound::kInputChannels;
      const double bound = by_channels ? 1.0 / std::sqrt(static_cast<double>(weight->size(1))) : scale;
      bias->uniform_(-bound, bound);
    }
  }
}

void init_last_linear(torch::nn::Module& network, double std) {
  const torch::NoGradGuard no_grad;
  nn::LinearImpl* last = nullptr;
  for (const auto& module : network.modules()) {
    if (auto* const linear = module->as<nn::Linear>()) last = linear;
  }
  require(last != nullptr, "models", "the network has no linear layer to initialise");
  last->weight.normal_(0.0, std);
  if (last->bias.defined()) last->bias.zero_();
}

}  // namespace bitdial::models
