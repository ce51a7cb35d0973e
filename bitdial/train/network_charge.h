#pragma once

#include <span>
#include <vector>

#include "bitdial/cost/network_cost.h"
#include "bitdial/models/zoo.h"
#include "bitdial/train/checkpoint.h"

namespace bitdial::train {

/// Of the network that a file holds the weights of.
std::vector<models::LayerRow> layer_table(const NetworkDescription& network);

/// What the analytic cost models charge a network of the zoo with; layers in the order of its table.
cost::NetworkCharge charge_of(std::span<const models::LayerRow> rows);

/// The same with the layers in the order of `layers`; one that the table does not know has the operations
/// that `layers` says.
cost::NetworkCharge charge_of(std::span<const models::LayerRow> rows, std::span<const LayerInfo> layers);

/// What a policy would be told of the layers of this table.
std::vector<LayerInfo> layer_infos(std::span<const models::LayerRow> rows);

}  // namespace bitdial::train
