#include "bitdial/train/network_charge.h"

#include <algorithm>
#include <string>

namespace bitdial::train {

namespace {

int64_t elements_of(const models::ImageSize& size) { return size.channels * size.height * size.width; }

cost::LayerCharge layer_charge(const models::LayerRow& row) {
  const bool is_linear = row.kind == "linear";
  const int64_t pixels = is_linear ? 1 : row.output.height * row.output.width;
  cost::LayerCharge charge;
  charge.name = row.name;
  charge.macs = row.macs;
  charge.weights = row.macs / pixels;
  charge.inputs = elements_of(row.input);
  const bool is_depthwise = row.groups > 1 && row.groups == row.input.channels;
  charge.kind = is_linear      ? LayerKind::kLinear
                : is_depthwise ? LayerKind::kDepthwiseConv2d
                               : LayerKind::kConv2d;
  return charge;
}

}  // namespace

std::vector<models::LayerRow> layer_table(const NetworkDescription& network) {
  models::Options options;
  options.classes = network.classes;
  options.in_channels = network.in_channels;
  options.image_size = network.image_size;
  return models::layer_table(network.model, options);
}

cost::NetworkCharge charge_of(std::span<const models::LayerRow> rows) {
  cost::NetworkCharge network;
  for (const models::LayerRow& row : rows) {
    if (row.macs > 0) network.layers.push_back(layer_charge(row));
    network.pool_operations += row.charged_pool_operations;
  }
  network.norm_elements = models::total_norm_elements(rows);
  return network;
}

cost::NetworkCharge charge_of(std::span<const models::LayerRow> rows, std::span<const LayerInfo> layers) {
  cost::NetworkCharge network = charge_of(rows);
  std::vector<cost::LayerCharge> ordered;
  for (const LayerInfo& layer : layers) {
    const auto found =
        std::find_if(network.layers.begin(), network.layers.end(),
                     [&](const cost::LayerCharge& charge) { return charge.name == layer.name; });
    ordered.push_back(found != network.layers.end()
                          ? *found
                          : cost::LayerCharge{layer.name, layer.kind, layer.macs, layer.weights, 0});
  }
  network.layers = std::move(ordered);
  return network;
}

std::vector<LayerInfo> layer_infos(std::span<const models::LayerRow> rows) {
  std::vector<LayerInfo> infos;
  for (const models::LayerRow& row : rows) {
    if (row.macs == 0) continue;
    const cost::LayerCharge charge = layer_charge(row);
    LayerInfo info;
    info.name = charge.name;
    info.kind = charge.kind;
    info.macs = charge.macs;
    info.weights = charge.weights;
    info.kernel = row.kernel;
    info.stride = row.stride;
    info.is_first = infos.empty();
    infos.push_back(std::move(info));
  }
  if (!infos.empty()) infos.back().is_last = true;
  return infos;
}

}  // namespace bitdial::train
