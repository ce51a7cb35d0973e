#pragma once

#include <torch/torch.h>

#include <optional>
#include <vector>

#include "bitdial/nn/session_core.h"
#include "bitdial/nn/stage.h"

/// The inside of a Stage: not part of the public interface.
namespace bitdial::nn {

struct Stage::Plan {
  struct Node {
    // A block, or else a pool.
    Conv2d conv{nullptr};
    torch::nn::AnyModule norm;
    torch::nn::BatchNorm2d batch_norm{nullptr};  ///< norm, where it is one
    Activation activation = Activation::kNone;
    torch::nn::MaxPool2d pool{nullptr};
    Value x = 0;
    std::optional<Value> residual;
    Value out = 0;

    bool is_block() const { return !conv.is_empty(); }
  };

  std::vector<Value> inputs;
  std::vector<Node> nodes;
  int values = 0;

  /// The session that all blocks belong to if the stage can run fused on these inputs, else null.
  std::shared_ptr<SessionCore> fusing_session(const std::vector<torch::Tensor>& inputs) const;
};

torch::Tensor run_unfused(const Stage::Plan& plan, const std::vector<torch::Tensor>& inputs);
torch::Tensor run_fused(std::shared_ptr<const Stage::Plan> plan, const std::vector<torch::Tensor>& inputs,
                        const std::shared_ptr<SessionCore>& session);

}  // namespace bitdial::nn
