#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The published costs that follow from a network and a schedule alone, beside what bitdial computes.
namespace bitdial::train {

/// One cell of a published table.
struct ReproducedCell {
  std::string name;
  double paper = 0.0;  ///< as printed
  double ours = 0.0;
  double tolerance = 0.0;  ///< of |ours - paper|, in the same unit

  double difference() const { return ours - paper; }
  bool ok() const { return difference() <= tolerance && -difference() <= tolerance; }
};

/// Rows of published tables that belong together.
struct ReproducedGroup {
  std::string_view name;    ///< "cpt-cifar"
  std::string_view title;   ///< what is compared, and whose it is
  std::string_view within;  ///< the tolerance, in words
  std::vector<ReproducedCell> (*cells)();
};

std::span<const ReproducedGroup> reproduced_groups();

/// Throws Error that suggests the nearest name.
const ReproducedGroup& reproduced_group(std::string_view name);

/// An object with the keys name ("cpt-cifar: ResNet-74 3-8/8"), paper, ours, difference, tolerance, ok.
nlohmann::ordered_json to_json(const ReproducedGroup& group, const ReproducedCell& cell);

}  // namespace bitdial::train
