#pragma once

#include <torch/torch.h>

#include <optional>
#include <string>

#include "bitdial/models/network.h"
#include "bitdial/nn/session.h"

namespace bitdial::train {

/// After a loss that is not finite: runs the batch once more in float32 and names the first layer whose
/// weight or input holds NaN or infinity ("layer1.0.conv2, x"), or the loss itself. Ends `session`.
std::string first_non_finite_operand(models::Network& network, std::optional<nn::Session>& session,
                                     const torch::Tensor& images, const StepInfo& info);

}  // namespace bitdial::train
