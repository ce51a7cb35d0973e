#pragma once

#include <torch/csrc/autograd/variable.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bitdial/kernels/conv2d.h"
#include "bitdial/nn/computed_source.h"
#include "bitdial/nn/stage_plan.h"

namespace bitdial::nn {

/// Where a node's parameters stand among the inputs of the stage's autograd node; -1: there is none.
struct ParameterPlaces {
  int weight = -1, bias = -1, gamma = -1, beta = -1;
};

/// The gradient of a block's output, g + other, on its way through the activation, and its sums by channel.
struct BlockGradient {
  at::Tensor g;      ///< rewritten: it becomes the gradient in front of the activation
  at::Tensor other;  ///< may be undefined
  at::Tensor mask;   ///< may be undefined
  /// Set where a max pool stands behind the activation: g, other and the result are of the pool's output.
  std::optional<PooledMaxima> pooled;
  kernels::Activation activation = kernels::Activation::kNone;
  at::Tensor activation_input;       ///< defined if the activation is smooth
  at::Tensor z;                      ///< what the block's norm multiplies g with; may be undefined
  const float* shift = nullptr;      ///< subtracted from z
  std::vector<double> sum, product;  ///< of g, and of g * (z - shift); filled in by the pass

  /// The pass that rewrites g. This must stay where it is until the pass is over.
  kernels::GradientSums pass();
};

/// What stands between the GEMM and the activation of a block, for one batch: a normalisation or nothing.
class BlockNorm {
 public:
  virtual ~BlockNorm() = default;
  /// Channel sums that the GEMM's epilogue is to gather, or null.
  virtual const kernels::ChannelSums* sums() { return nullptr; }
  /// Fills in what the pass behind the GEMM does to its output z, which is terms.a. `records`: backward
  /// comes.
  virtual void follow(AffineSource::Terms& terms, bool records) = 0;
  /// What backward wants to have summed: sets gradient.z and gradient.shift.
  virtual void request_sums(BlockGradient& /*gradient*/) const {}
  /// dz of a gradient whose pass is over; fills in the gradients of gamma, beta and the bias.
  virtual std::unique_ptr<OperandSource> backward(const BlockGradient& gradient,
                                                  const ParameterPlaces& places,
                                                  std::vector<at::Tensor>& gradients,
                                                  const std::shared_ptr<BufferPool>& pool) const = 0;
};

std::shared_ptr<BlockNorm> begin_norm(const Stage::Plan::Node& node);

}  // namespace bitdial::nn
