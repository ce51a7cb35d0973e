#pragma once

#include <torch/torch.h>

#include <optional>
#include <vector>

#include "bitdial/nn/norm.h"
#include "bitdial/nn/session_core.h"
#include "bitdial/nn/stage.h"
#include "bitdial/ops/gemm_problem.h"

/// The inside of a Stage: not part of the public interface.
namespace bitdial::nn {

struct Stage::Plan {
  struct Node {
    enum class Kind : uint8_t { kBlock, kMaxPool, kAveragePool, kFlatten };
    Kind kind = Kind::kBlock;
    // A block is on a convolution or a linear layer.
    Conv2d conv{nullptr};
    Linear linear{nullptr};
    torch::nn::AnyModule norm;
    torch::nn::BatchNorm2d batch_norm{nullptr};  ///< norm, where it is one
    RangeBatchNorm2d range_norm{nullptr};        ///< norm, where it is one
    Activation activation = Activation::kNone;
    torch::nn::MaxPool2d max_pool{nullptr};
    torch::nn::AvgPool2d average_pool{nullptr};  ///< none: over all pixels, whose axes go
    Value x = 0;
    std::optional<Value> residual;
    Value out = 0;

    bool is_block() const { return kind == Kind::kBlock; }
    bool is_max_pool() const { return kind == Kind::kMaxPool; }
    bool is_linear() const { return !linear.is_empty(); }
    const QuantizedLayer& layer() const;
    const torch::Tensor& weight() const { return is_linear() ? linear->weight : conv->weight; }
    const torch::Tensor& bias() const { return is_linear() ? linear->bias : conv->bias; }
    bool is_training() const { return is_linear() ? linear->is_training() : conv->is_training(); }
    /// Dimensions of x: 2 or 4.
    int64_t dimensions() const { return is_linear() ? 2 : 4; }
    /// The GEMMs on x of these sizes.
    ops::GemmProblem problem(at::IntArrayRef x, Arithmetic arithmetic, at::ScalarType dtype) const;
    /// The parameters of a block's normalisation, undefined where it has none.
    torch::Tensor gamma() const;
    torch::Tensor beta() const;
  };

  std::vector<Value> inputs;
  std::vector<Node> nodes;
  std::vector<int> readers;        ///< of each value, within the stage
  std::vector<int> makers;         ///< the node that makes each value, -1: an input
  std::vector<int> first_readers;  ///< of the nodes that read each value: the last one to add to its gradient
  std::vector<bool> needs_values;  ///< whether somebody but a GEMM reads it
  std::vector<bool> pooled;        ///< see is_pooled

  Value add_value();
  Value add(Node node);
  Value last() const { return nodes.back().out; }
  /// The type of a value where others between the passes have `between`. What leaves the stage behind a pool
  /// or a linear layer is float32: features and logits, rounded by nobody.
  at::ScalarType dtype(const Node& node, at::ScalarType between) const;
  /// Whether a max pool is all that reads a block's value, and computes what follows the GEMM itself.
  bool is_pooled(Value value) const { return pooled[static_cast<size_t>(value)]; }

  /// The session that all blocks belong to if the stage can run fused on these inputs, else null.
  std::shared_ptr<SessionCore> fusing_session(const std::vector<torch::Tensor>& inputs) const;
};

/// A batch whose samples are sorted by the option that they chose.
struct OptionGroups {
  std::vector<int64_t> samples;  ///< of each option
  torch::Tensor m;               ///< [N, K] in the same order, where operands are mixed
};

/// Modules one after the other; with `groups` every convolution by option.
torch::Tensor run_unfused(const Stage::Plan& plan, const std::vector<torch::Tensor>& inputs,
                          const OptionGroups* groups = nullptr);
torch::Tensor convolve_by_option(Conv2d conv, const torch::Tensor& x, const OptionGroups& groups);
torch::Tensor run_fused(std::shared_ptr<const Stage::Plan> plan, const std::vector<torch::Tensor>& inputs,
                        const std::shared_ptr<SessionCore>& session);

}  // namespace bitdial::nn
