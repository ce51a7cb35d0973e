#pragma once

#include <torch/torch.h>

#include <memory>
#include <optional>
#include <vector>

#include "bitdial/kernels/fuse.h"
#include "bitdial/nn/conv2d.h"
#include "bitdial/nn/linear.h"

namespace bitdial::nn {

using kernels::Activation;

/// What of a gated block is mixed with the gate's choices m, so that m has a gradient: nothing, the output of
/// each sample's own option, or the quantised inputs of every convolution over all options.
enum class Mixed : uint8_t { kNothing, kOutputs, kOperands };

/// A graph of blocks `convolution -> normalisation -> (+ residual) -> activation`, `linear -> activation` and
/// pools that runs as one autograd node. It knows the readers of each of its values: an integer form is
/// written for the convolutions that read a value, a float form only for other readers, each in the pass that
/// computes it. Saved for backward are the integers, a GEMM's output where batch norm, GELU or tanh needs it,
/// and one bit per ReLU.
///
/// It fuses what a session runs on the CPU with batch norm, Range BN or none; otherwise, and with
/// SessionOptions::fused off or a policy that quantises results (Policy::results), it runs the modules one
/// after the other. Values between the passes are SessionOptions::between.
///
/// The modules stay the caller's: a network registers them under its own names and adds them here.
class Stage {
 public:
  using Value = int;

  Stage();

  Value add_input();
  /// `norm` may be empty or any 2-d normalisation. GELU and tanh stand behind neither a normalisation nor a
  /// residual: Error.
  Value add_block(Conv2d conv, torch::nn::AnyModule norm, Activation activation, Value x,
                  std::optional<Value> residual = std::nullopt);
  /// x [N, in_features] to [N, out_features].
  Value add_linear(Linear linear, Activation activation, Value x);
  Value add_max_pool(torch::nn::MaxPool2d pool, Value x);
  Value add_average_pool(torch::nn::AvgPool2d pool, Value x);
  /// x [N, C, H, W] to [N, C]: the mean over the pixels.
  Value add_average_pool(Value x);
  /// x [N, C, H, W] to [N, C * H * W].
  Value add_flatten(Value x);

  /// The value added last, for these inputs ([N, C, H, W], [N, C] for linear layers) in the order of
  /// add_input; of the inputs' type.
  torch::Tensor forward(const std::vector<torch::Tensor>& inputs) const;

  /// Each sample of the one input x [N, C, H, W] in the formats of its own option, the largest of its row in
  /// m [N, K] (one-hot in value): convolutions run once per option that a sample chose, with the ranges of
  /// all samples; everything between them, batch norm's statistics too, runs on the whole batch. Blocks on
  /// convolutions only.
  torch::Tensor forward_by_option(const torch::Tensor& x, const torch::Tensor& m, Mixed mixed) const;

  struct Plan;

 private:
  std::shared_ptr<Plan> plan_;
};

struct ConvBlockOptions {
  explicit ConvBlockOptions(torch::nn::Conv2dOptions convolution) : conv(std::move(convolution)) {}
  torch::nn::Conv2dOptions conv;
  /// Unset: no normalisation.
  std::optional<Normalization> normalization = Normalization::kBatch;
  Activation activation = Activation::kRelu;
  int64_t norm_index = 0;  ///< of the network's normalisations: Range BN draws other random numbers in each
};

/// One such block as a module: children `conv` and `norm`.
class ConvBlockImpl : public torch::nn::Cloneable<ConvBlockImpl> {
 public:
  explicit ConvBlockImpl(ConvBlockOptions options);

  void reset() override;
  /// x [N, C, H, W]; residual, if given, of the output's shape.
  torch::Tensor forward(const torch::Tensor& x, const std::optional<torch::Tensor>& residual = std::nullopt);

  ConvBlockOptions options;
  Conv2d conv{nullptr};
  torch::nn::AnyModule norm;

 private:
  Stage plain_, with_residual_;
};
TORCH_MODULE(ConvBlock);

/// A linear layer and its activation as a module: child `linear`.
class LinearBlockImpl : public torch::nn::Cloneable<LinearBlockImpl> {
 public:
  explicit LinearBlockImpl(const torch::nn::LinearOptions& linear_options,
                           Activation activation = Activation::kRelu);

  void reset() override;
  /// x [N, in_features].
  torch::Tensor forward(const torch::Tensor& x);

  torch::nn::LinearOptions options;
  Activation activation;
  Linear linear{nullptr};

 private:
  Stage stage_;
};
TORCH_MODULE(LinearBlock);

}  // namespace bitdial::nn
