#pragma once

#include <torch/torch.h>

/// Initialisers that replace what a network was made with.
namespace bitdial::models {

/// What bounds the uniform distribution of biases in AdaPT's code.
enum class BiasBound : uint8_t {
  kScale,          ///< the initialiser's scale: LeNet-5, ResNet
  kInputChannels,  ///< 1 / sqrt(dimension 1 of the weight), which is not the fan-in: AlexNet
};

/// Truncated normal variance scaling (Kummer et al., AdaPT): weights of convolutions and linear layers from
/// N(0, s / fan-in) cut off at +-sqrt(3 s / fan-in), without correcting the variance for the cut; biases, the
/// shifts of normalisations among them, from U(-bound, bound) (shifts: bound s); scales of normalisations 1.
/// Draws from LibTorch's default generator.
void init_truncated_normal(torch::nn::Module& network, double scale, BiasBound bias_bound);

/// The linear layer registered last: weights from N(0, std^2), biases 0. Error when the network has none.
void init_last_linear(torch::nn::Module& network, double std);

}  // namespace bitdial::models
