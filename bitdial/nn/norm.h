#pragma once

#include <torch/torch.h>

#include <optional>

#include "bitdial/core/policy.h"
#include "bitdial/nn/range_norm_call.h"

namespace bitdial::nn {

/// The constants of Range BN (Banner et al. 2018; specs: the authors' later code).
struct RangeBatchNorm2dOptions {
  explicit RangeBatchNorm2dOptions(int64_t channels) : num_features(channels) {}
  int64_t num_features;
  int64_t chunks = 16;    ///< extremes are averaged over this many chunks of the batch
  double eps = 1e-5;      ///< added to the scale, not to its square
  double momentum = 0.1;  ///< running <- momentum * running + (1 - momentum) * new, as in the authors' code
  bool affine = true;
  /// When set, the input (one affine range per tensor: mean over samples of the extremes; running range at
  /// evaluation) and the output gradient (extremes, stochastic rounding) are quantised to this many bits.
  std::optional<int> quantize_bits;
  uint64_t seed = 0;  ///< of the stochastic rounding
  int64_t layer = 0;  ///< two layers of a network draw different random numbers
};

/// Batch normalisation by the range instead of the standard deviation: with the B*H*W values of a channel
/// split into `chunks` chunks of n, sigma = (mean of chunk maxima - mean of chunk minima) * 0.54021 / sqrt(2
/// ln n) and y = gamma * (x - mean) / (sigma + eps) + beta. B*H*W must be divisible by `chunks`, with at
/// least 2 values in each.
class RangeBatchNorm2dImpl : public torch::nn::Cloneable<RangeBatchNorm2dImpl> {
 public:
  explicit RangeBatchNorm2dImpl(int64_t channels) : RangeBatchNorm2dImpl(RangeBatchNorm2dOptions(channels)) {}
  explicit RangeBatchNorm2dImpl(const RangeBatchNorm2dOptions& options);

  void reset() override;
  torch::Tensor forward(const torch::Tensor& x);
  void pretty_print(std::ostream& stream) const override;

  /// The input on the grid of `quantize_bits` where these are set, in evaluation by the running range; its
  /// gradient passes unchanged.
  torch::Tensor quantize_input(const torch::Tensor& x);
  /// Measures a batch in training, which counts for the running statistics. x: what quantize_input returned.
  RangeNormCall begin(const torch::Tensor& x);

  RangeBatchNorm2dOptions options;
  torch::Tensor weight;         ///< gamma [C], starts at 1; undefined unless affine
  torch::Tensor bias;           ///< beta [C], starts at 0
  torch::Tensor running_mean;   ///< [C], starts at 0
  torch::Tensor running_scale;  ///< sigma estimate [C], starts at 0 as in the authors' code
  torch::Tensor num_batches_tracked;
  torch::Tensor running_range;  ///< [2] min and max of the quantised input; only with quantize_bits

 private:
  void update_running(const torch::Tensor& mean, const torch::Tensor& sigma);
};
TORCH_MODULE(RangeBatchNorm2d);

/// Word length that SBM's code gives the quantisers inside Range BN.
inline constexpr int kRangeNormBits = 8;

/// The 2-d normalisation that a policy asks for. `layer` numbers the normalisations of a network. Range BN
/// quantises its input and output gradient to `range_norm_bits` (0: not at all); its random numbers follow
/// from the seed of LibTorch's default generator.
torch::nn::AnyModule make_norm2d(Normalization normalization, int64_t channels, int64_t layer = 0,
                                 int range_norm_bits = kRangeNormBits);

}  // namespace bitdial::nn
