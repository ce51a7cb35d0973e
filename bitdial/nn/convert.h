#pragma once

#include <memory>

#include "bitdial/nn/session.h"

namespace bitdial::nn {

/// Trains a network written for plain LibTorch under a policy, without a change to its code:
///
///     auto session = bitdial::nn::convert(*net, bitdial::policies::make("apt"));
///     for (bitdial::StepInfo step; step.step < steps; ++step.step) {
///       session.begin_step(step);
///       torch::Tensor loss;
///       {
///         bitdial::nn::ForwardScope scope(session);
///         loss = loss_of(net->forward(images), labels);
///       }
///       optimizer.zero_grad();
///       loss.backward();
///       optimizer.step();
///       session.end_step(step, {.loss = loss.item<double>(), .learning_rate = lr});
///     }
///
/// Inside a ForwardScope, convolutions and matrix products with the weight of a torch::nn::Conv2d or
/// torch::nn::Linear below `module` run as bitdial::nn::Conv2d and Linear do; bitdial::nn layers are bound
/// too. Everything else (ConvTranspose, Conv1d, Embedding, ...) stays LibTorch's. Evaluate inside a
/// ForwardScope as well.
Session convert(torch::nn::Module& module, std::shared_ptr<Policy> policy, SessionOptions options = {});

/// The same with a session that the caller made.
void convert(torch::nn::Module& module, Session& session);

}  // namespace bitdial::nn
