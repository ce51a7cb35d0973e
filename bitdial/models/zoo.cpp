#include "bitdial/models/zoo.h"

#include <algorithm>
#include <array>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"
#include "bitdial/models/initializer.h"
#include "bitdial/models/network.h"
#include "bitdial/models/pan.h"

namespace bitdial::models {

namespace {

struct Entry {
  std::string_view name;
  std::shared_ptr<Network> (*make)(const Options&);
};

constexpr std::array<Entry, 17> kZoo{{
    {"lenet5", make_lenet5},
    {"alexnet-cifar", make_alexnet_cifar},
    {"alexnet-imagenet", make_alexnet_imagenet},
    {"resnet20-cifar", [](const Options& options) { return make_resnet_cifar(3, options); }},
    {"resnet38-cifar", [](const Options& options) { return make_resnet_cifar(6, options); }},
    {"resnet74-cifar", [](const Options& options) { return make_resnet_cifar(12, options); }},
    {"resnet110-cifar", [](const Options& options) { return make_resnet_cifar(18, options); }},
    {"resnet152-cifar", [](const Options& options) { return make_resnet_cifar(25, options); }},
    {"resnet164-cifar", [](const Options& options) { return make_resnet_cifar(27, options); }},
    {"resnet18-cifar", make_resnet18_cifar},
    {"resnet18-imagenet", [](const Options& options) { return make_resnet_imagenet(18, options); }},
    {"resnet34-imagenet", [](const Options& options) { return make_resnet_imagenet(34, options); }},
    {"resnet50-imagenet", [](const Options& options) { return make_resnet_imagenet(50, options); }},
    {"vgg16-bn-cifar", make_vgg16_bn_cifar},
    {"mobilenet-v2-cifar", make_mobilenet_v2_cifar},
    {"googlenet-cifar", make_googlenet_cifar},
    {"googlenet-imagenet", make_googlenet_imagenet},
}};

constexpr auto kNames = [] {
  std::array<std::string_view, kZoo.size()> names;
  std::transform(kZoo.begin(), kZoo.end(), names.begin(), [](const Entry& entry) { return entry.name; });
  return names;
}();

constexpr std::array<std::string_view, 1> kTableOnlyNames{"pan-x4"};

int64_t sum(std::span<const LayerRow> table, int64_t LayerRow::*member) {
  int64_t total = 0;
  for (const LayerRow& row : table) total += row.*member;
  return total;
}

void check(const Options& options) {
  require(options.initializer_scale > 0.0, "models", "the initialiser's scale must be above 0, got {}",
          options.initializer_scale);
  require(options.classes > 0, "models", "a classifier needs at least one class, got {}", options.classes);
  require(options.in_channels.value_or(1) > 0, "models", "images need at least one channel, got {}",
          options.in_channels.value_or(1));
  require(options.image_size.value_or(1) > 0, "models", "images need at least one pixel, got an edge of {}",
          options.image_size.value_or(1));
}

}  // namespace

std::span<const std::string_view> names() { return kNames; }
std::span<const std::string_view> table_only_names() { return kTableOnlyNames; }

std::shared_ptr<Network> make(std::string_view name, const Options& options) {
  check(options);
  require(std::ranges::find(kTableOnlyNames, name) == kTableOnlyNames.end(), "models",
          "{} is known by its layer table alone and cannot be built or trained", name);
  require(!options.auxiliary_heads || name == "googlenet-imagenet", "models",
          "auxiliary heads are for googlenet-imagenet, {} has none", name);
  const auto* const entry =
      std::find_if(kZoo.begin(), kZoo.end(), [&](const Entry& candidate) { return candidate.name == name; });
  if (entry == kZoo.end()) {
    std::vector<std::string> candidates(kNames.begin(), kNames.end());
    candidates.insert(candidates.end(), kTableOnlyNames.begin(), kTableOnlyNames.end());
    fail("models", "unknown network \"{}\"{}", name, suggestion(name, candidates));
  }
  auto network = entry->make(options);
  if (options.initializer == Initializer::kTruncatedNormal) {
    const bool is_alexnet = name.starts_with("alexnet");
    init_truncated_normal(*network, options.initializer_scale,
                          is_alexnet ? BiasBound::kInputChannels : BiasBound::kScale);
  }
  if (options.linear_std > 0.0) init_last_linear(*network, options.linear_std);
  require(!options.gate || network->has_gate(), "models",
          "{} has no residual blocks, which the policy's gate acts on (use a ResNet or mobilenet-v2-cifar)",
          name);
  return network;
}

std::vector<LayerRow> layer_table(std::string_view name, const Options& options) {
  if (name == "pan-x4") {
    check(options);
    return pan_x4_table(options);
  }
  return make(name, options)->layer_table();
}

int64_t total_macs(std::span<const LayerRow> table) { return sum(table, &LayerRow::macs); }

int64_t total_parameters(std::span<const LayerRow> table) { return sum(table, &LayerRow::parameters); }

int64_t total_bias_adds(std::span<const LayerRow> table) { return sum(table, &LayerRow::bias_adds); }

int64_t total_norm_elements(std::span<const LayerRow> table) {
  int64_t total = 0;
  for (const LayerRow& row : table) total += row.kind == "norm2d" ? row.output_elements() : 0;
  return total;
}

int64_t m_star(std::span<const LayerRow> table) {
  return total_macs(table) + 2 * total_norm_elements(table) + sum(table, &LayerRow::charged_pool_operations);
}

}  // namespace bitdial::models
