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
  /// Starts the scale of the last normalisation of each residual block at 0 (SBM's recipe).
  bool zero_last_gamma = false;
};

/// "lenet5", "alexnet-cifar", ..., in the order of recipes.md.
std::span<const std::string_view> names();

/// A freshly initialised network, drawn from LibTorch's default generator. Throws Error that suggests the
/// nearest name when `name` is unknown.
std::shared_ptr<Network> make(std::string_view name, const Options& options = {});

/// The layers of make(name, options).
std::vector<LayerRow> layer_table(std::string_view name, const Options& options = {});

int64_t total_macs(std::span<const LayerRow> table);
int64_t total_parameters(std::span<const LayerRow> table);

}  // namespace bitdial::models
