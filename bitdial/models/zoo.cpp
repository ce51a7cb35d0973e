#include "bitdial/models/zoo.h"

#include <algorithm>
#include <array>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"
#include "bitdial/models/network.h"

namespace bitdial::models {

namespace {

struct Entry {
  std::string_view name;
  std::shared_ptr<Network> (*make)(const Options&);
};

constexpr std::array<Entry, 11> kZoo{{
    {"lenet5", make_lenet5},
    {"alexnet-cifar", make_alexnet_cifar},
    {"alexnet-imagenet", make_alexnet_imagenet},
    {"resnet20-cifar", [](const Options& options) { return make_resnet_cifar(3, options); }},
    {"resnet38-cifar", [](const Options& options) { return make_resnet_cifar(6, options); }},
    {"resnet74-cifar", [](const Options& options) { return make_resnet_cifar(12, options); }},
    {"resnet110-cifar", [](const Options& options) { return make_resnet_cifar(18, options); }},
    {"resnet18-cifar", [](const Options& options) { return make_resnet18(false, options); }},
    {"resnet18-imagenet", [](const Options& options) { return make_resnet18(true, options); }},
    {"vgg16-bn-cifar", make_vgg16_bn_cifar},
    {"mobilenet-v2-cifar", make_mobilenet_v2_cifar},
}};

constexpr auto kNames = [] {
  std::array<std::string_view, kZoo.size()> names;
  std::transform(kZoo.begin(), kZoo.end(), names.begin(), [](const Entry& entry) { return entry.name; });
  return names;
}();

}  // namespace

std::span<const std::string_view> names() { return kNames; }

std::shared_ptr<Network> make(std::string_view name, const Options& options) {
  require(options.classes > 0, "models", "a classifier needs at least one class, got {}", options.classes);
  require(options.in_channels.value_or(1) > 0, "models", "images need at least one channel, got {}",
          options.in_channels.value_or(1));
  require(options.image_size.value_or(1) > 0, "models", "images need at least one pixel, got an edge of {}",
          options.image_size.value_or(1));
  const auto* const entry =
      std::find_if(kZoo.begin(), kZoo.end(), [&](const Entry& candidate) { return candidate.name == name; });
  if (entry == kZoo.end()) {
    const std::vector<std::string> candidates(kNames.begin(), kNames.end());
    fail("models", "unknown network \"{}\"{}", name, suggestion(name, candidates));
  }
  return entry->make(options);
}

std::vector<LayerRow> layer_table(std::string_view name, const Options& options) {
  return make(name, options)->layer_table();
}

int64_t total_macs(std::span<const LayerRow> table) {
  int64_t total = 0;
  for (const LayerRow& row : table) total += row.macs;
  return total;
}

int64_t total_parameters(std::span<const LayerRow> table) {
  int64_t total = 0;
  for (const LayerRow& row : table) total += row.parameters;
  return total;
}

}  // namespace bitdial::models
