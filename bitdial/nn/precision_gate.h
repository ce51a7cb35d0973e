#pragma once

#include <torch/torch.h>

#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/nn/stage.h"

namespace bitdial::nn {

/// The gate of FracTrain's DFQ (Fu et al. 2020): for each residual block and sample one of K precisions.
///
///   features = average pool of the block's input to 1x1 -> 1x1 convolutions, ReLU between (one set a block)
///   p = softmax(linear(LSTM(features)))    one LSTM for all blocks, run along depth, from zero every forward
///   h = one-hot of the largest p, the lowest index where several are
///   m = h in value, with the gradient of p
class PrecisionGateImpl : public torch::nn::Module {
 public:
  /// `channels` of each gated block's input, in execution order.
  PrecisionGateImpl(GateRequest request, const std::vector<int64_t>& channels);

  /// Before the first block of a forward.
  void begin();
  /// For the next block, with input [N, C, H, W]: m [N, K].
  torch::Tensor choose(const torch::Tensor& x);

  /// The block's output for these choices: `block` has one input, and its layers ask their policy for the
  /// formats of an option. In training as the request says, otherwise each sample runs its own option only.
  torch::Tensor run(const Stage& block, const torch::Tensor& x, const torch::Tensor& m) const;

  /// What the choices of the last forward add to the loss (Policy::weigh_gate); 0-dimensional.
  torch::Tensor cost(Policy& policy, const StepInfo& step, double task_loss) const;

  const GateRequest& request() const { return request_; }

 private:
  GateRequest request_;
  std::vector<torch::nn::Sequential> features_;
  torch::nn::LSTMCell lstm_{nullptr};
  torch::nn::Linear head_{nullptr};
  std::tuple<torch::Tensor, torch::Tensor> state_;
  std::vector<torch::Tensor> uses_;  ///< per block: samples of each option [K], with the gradient of p
  int64_t batch_ = 0;
};
TORCH_MODULE(PrecisionGate);

/// One-hot of the row maxima of p [N, K], the lowest index where several are; its gradient is p's.
torch::Tensor straight_through(const torch::Tensor& p);

}  // namespace bitdial::nn
