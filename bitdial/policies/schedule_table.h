#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitdial/core/policy.h"

namespace bitdial::policies {

/// Bits by layer and epoch, written down in advance.
struct ScheduleTable {
  struct Row {
    std::vector<std::string> match;  ///< names of layers, or patterns with * and ?
    std::vector<int> forward;        ///< bits of W and X, one per column
    std::vector<int> gradient;       ///< bits of dY, one per column
  };

  std::optional<double> length;  ///< epochs of the run that the table is written for
  std::vector<double> epochs;    ///< first epoch of each column, ascending from 0
  std::vector<Row> rows;         ///< the first that matches a layer counts
  Row others;                    ///< layers that no row matches

  /// The row of a layer.
  const Row& row(std::string_view layer) const;
  /// The column of an epoch, which may be a fraction.
  size_t column(double epoch) const;
  /// Throws Error that names the first pattern which no layer matches.
  void check_patterns(std::span<const LayerInfo> layers) const;
};

/// From the form of a file (docs/policies.md): {"length": 160, "epochs": [0, 30], "forward": 8, "gradient":
/// 8, "layer": [{"match": "layer1.*", "forward": [4, 6], "gradient": 8}]}. Throws Error that begins with
/// `source` for an unknown key, a wrong number of columns and bits other than 0 and 2 .. 32.
ScheduleTable parse_schedule(const nlohmann::json& json, const std::string& source);

/// A file of that form, in JSON when its name ends so, otherwise TOML.
nlohmann::json read_schedule_file(const std::string& path);

/// "ldp-1", "ldp-2", "ldp-3": the rows of LDP's Table 1 (Yu et al. 2022), 4, 6 and 8 bits that move over the
/// three stages of a CIFAR ResNet every 30 of 160 epochs, 8 bits from epoch 90 on.
std::vector<std::string> schedule_presets();
nlohmann::json schedule_preset(std::string_view name);

}  // namespace bitdial::policies
