#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitdial/core/policy.h"

/// The networks of the published experiments (recipes.md, section 1), by name.
namespace bitdial::models {

class Network;

struct ImageSize {
  int64_t channels = 0, height = 0, width = 0;
  bool operator==(const ImageSize&) const = default;
};

/// Where a layer with weights stands: published systems except stem, shortcuts or head from quantisation in
/// different combinations (recipes.md, section 1).
enum class LayerRole : uint8_t {
  kOther,     ///< no GEMM: normalisation, pool
  kStem,      ///< the first layer
  kBody,      ///< within the blocks
  kShortcut,  ///< the projection of a residual block
  kHead,      ///< the last layer; of super-resolution networks everything from the first enlargement on
};

/// One layer of a network as built, for one sample.
struct LayerRow {
  std::string name;         ///< as in the module tree: "layer1.0.conv1"
  std::string kind;         ///< "conv2d", "norm2d", "linear", "max_pool2d", "avg_pool2d"
  ImageSize input, output;  ///< features of a linear layer are channels of a 1x1 image
  int64_t kernel = 0;       ///< edge of a square kernel, 0 where there is none
  int64_t stride = 0;
  int64_t padding = 0;
  int64_t parameters = 0;  ///< weights and biases that the optimiser updates
  int64_t macs = 0;        ///< multiply-accumulates, padded taps included (the field's convention)
  int64_t bias_adds = 0;   ///< additions of a bias, none of them in `macs`
  int64_t groups = 1;      ///< of a convolution: its input channels where it is depth-wise
  LayerRole role = LayerRole::kOther;
  /// What the published training costs charge a pool with: k^2 + 1 for each output of the CIFAR ResNets'
  /// average pool, nothing in the other networks (costs.md, section 4).
  int64_t charged_pool_operations = 0;

  int64_t output_elements() const { return output.channels * output.height * output.width; }
};

struct Options {
  int64_t classes = 10;
  Normalization normalization = Normalization::kBatch;
  /// Range BN only: word length of its input and output gradient; 0: neither is quantised.
  int range_norm_bits = 8;
  /// Channels of the images; absent: what the network was published with (1 for lenet5, otherwise 3).
  std::optional<int64_t> in_channels = std::nullopt;
  /// Edge of the square images; absent: 32 or, for the ImageNet networks, 224. Linear layers follow it.
  std::optional<int64_t> image_size = std::nullopt;
  /// A gate on every residual block (Policy::gate); Error for a network without such blocks.
  std::optional<GateRequest> gate = std::nullopt;
  /// Starts the scale of the last normalisation of each residual block at 0 (SBM's recipe).
  bool zero_last_gamma = false;
  Initializer initializer = Initializer::kPublished;
  double initializer_scale = 0.5;  ///< s of kTruncatedNormal
  /// Standard deviation of the last layer's weights, whose biases then start at 0; 0: the initialiser's.
  double linear_std = 0.0;
  /// googlenet-imagenet only: two more classifiers, which training reads (Network::take_auxiliary_logits).
  bool auxiliary_heads = false;
};

/// "lenet5", "alexnet-cifar", ..., in the order of recipes.md.
std::span<const std::string_view> names();

/// A freshly initialised network, drawn from LibTorch's default generator. Throws Error that suggests the
/// nearest name when `name` is unknown.
std::shared_ptr<Network> make(std::string_view name, const Options& options = {});

/// Networks that are known by their layers alone: layer_table has them, make refuses them. "pan-x4".
std::span<const std::string_view> table_only_names();

/// The layers of make(name, options), or of a network that is known by its table alone.
std::vector<LayerRow> layer_table(std::string_view name, const Options& options = {});

int64_t total_macs(std::span<const LayerRow> table);
int64_t total_parameters(std::span<const LayerRow> table);
int64_t total_bias_adds(std::span<const LayerRow> table);
/// Elements that the normalisations write for one sample.
int64_t total_norm_elements(std::span<const LayerRow> table);

/// M*, which the published training costs of CPT and LDP multiply bits with: MACs, two operations for each
/// element of a normalisation, and the pool of the CIFAR ResNets (costs.md, section 4).
int64_t m_star(std::span<const LayerRow> table);

}  // namespace bitdial::models
