#pragma once

#include <torch/torch.h>

#include <optional>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/nn/stage.h"

namespace bitdial::nn {

/// A residual block as a gate runs it; its stages have one input each.
struct GatedBlock {
  int64_t in_channels = 0;
  /// For one sample, those of depth-wise convolutions apart; both 0 where all blocks count alike.
  int64_t macs = 0, depthwise_macs = 0;
  Stage block{};
  std::optional<Stage> shortcut{};  ///< what is left when the block is skipped; empty: its input
};

/// The gate of FracTrain's DFQ (Fu et al. 2020): for each residual block and sample one of K precisions.
///
///   features = average pool of the block's input to 1x1 -> 1x1 convolutions, ReLU between (one set a block)
///   p = softmax(linear(LSTM(features)))    one LSTM for all blocks, run along depth, from zero every forward
///   h = one-hot of the largest p, the lowest index where several are
///   m = h in value, with the gradient of p
class PrecisionGateImpl : public torch::nn::Module {
 public:
  /// In execution order.
  PrecisionGateImpl(GateRequest request, std::vector<GatedBlock> blocks);

  /// All blocks, one after the other: x [N, C, H, W] is the first one's input.
  torch::Tensor forward(torch::Tensor x);

  /// The steps of forward. Before the first block:
  void begin();
  /// For the next block, with input [N, C, H, W]: m [N, K].
  torch::Tensor choose(const torch::Tensor& x);
  /// The output of block `index` for these choices; its layers ask their policy for the formats of an option.
  /// In training as the request says, otherwise each sample runs its own option only.
  torch::Tensor run(size_t index, const torch::Tensor& x, const torch::Tensor& m) const;

  /// What the choices of the last forward add to the loss (Policy::weigh_gate); 0-dimensional.
  torch::Tensor cost(Policy& policy, const StepInfo& step, double task_loss) const;

  const GateRequest& request() const { return request_; }

 private:
  torch::Tensor mix_outputs(const GatedBlock& gated, const torch::Tensor& x, const torch::Tensor& m) const;
  torch::Tensor run_by_option(const GatedBlock& gated, const torch::Tensor& x, const torch::Tensor& m,
                              Mixed mixed) const;

  GateRequest request_;
  std::vector<GatedBlock> blocks_;
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
