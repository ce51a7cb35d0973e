#include "bitdial/policies/schedule_table.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"
#include "bitdial/policies/overrides.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#include <toml++/toml.h>
#pragma GCC diagnostic pop

namespace bitdial::policies {
namespace {

constexpr const char* kTable = "schedule";

void check_keys(const nlohmann::json& json, const std::vector<std::string>& known,
                const std::string& source) {
  require(json.is_object(), kTable, "{}: expected a table of keys, got {}", source, json.dump());
  for (const auto& [key, value] : json.items()) {
    require(std::find(known.begin(), known.end(), key) != known.end(), kTable, "{}: unknown key \"{}\"{}",
            source, key, suggestion(key, known));
  }
}

// One number for all columns, or one each.
std::vector<int> read_columns(const nlohmann::json& json, const std::string& key, size_t columns,
                              const std::string& source) {
  std::vector<int> bits;
  const nlohmann::json value = json.value(key, nlohmann::json(8));
  const nlohmann::json list = value.is_array() ? value : nlohmann::json(columns, value);
  for (const nlohmann::json& one : list) {
    const bool is_valid = one.is_number_integer() && (one == 0 || (one >= 2 && one <= 32));
    require(is_valid, kTable, "{}: {} must be 0 or 2 .. 32, got {}", source, key, one.dump());
    bits.push_back(one.get<int>());
  }
  require(bits.size() == columns, kTable, "{}: {} has {} columns, epochs has {}", source, key, bits.size(),
          columns);
  return bits;
}

std::vector<double> read_epochs(const nlohmann::json& json, const std::string& source) {
  const nlohmann::json list = json.value("epochs", nlohmann::json::array({0}));
  std::vector<double> epochs;
  require(list.is_array(), kTable, "{}: epochs must be a list of numbers, got {}", source, list.dump());
  for (const nlohmann::json& one : list) {
    require(one.is_number(), kTable, "{}: epochs must be a list of numbers, got {}", source, list.dump());
    epochs.push_back(one.get<double>());
  }
  const bool ascends =
      std::adjacent_find(epochs.begin(), epochs.end(), std::greater_equal<>()) == epochs.end();
  require(!epochs.empty() && epochs[0] == 0.0 && ascends, kTable,
          "{}: epochs must ascend and begin with 0, got {}", source, list.dump());
  return epochs;
}

std::vector<std::string> read_match(const nlohmann::json& json, const std::string& source) {
  const nlohmann::json match = json.value("match", nlohmann::json());
  const nlohmann::json list = match.is_array() ? match : nlohmann::json::array({match});
  std::vector<std::string> patterns;
  for (const nlohmann::json& one : list) {
    require(one.is_string(), kTable, "{}: match must be a name or a list of names, got {}", source,
            match.dump());
    patterns.push_back(one.get<std::string>());
  }
  return patterns;
}

}  // namespace

const ScheduleTable::Row& ScheduleTable::row(std::string_view layer) const {
  for (const Row& row : rows) {
    const auto matches = [&](const std::string& pattern) { return matches_pattern(layer, pattern); };
    if (std::any_of(row.match.begin(), row.match.end(), matches)) return row;
  }
  return others;
}

size_t ScheduleTable::column(double epoch) const {
  const auto next = std::upper_bound(epochs.begin(), epochs.end(), epoch);
  return next == epochs.begin() ? 0 : static_cast<size_t>(next - epochs.begin()) - 1;
}

void ScheduleTable::check_patterns(std::span<const LayerInfo> layers) const {
  std::vector<std::string> names;
  for (const LayerInfo& layer : layers) names.push_back(layer.name);
  for (const Row& row : rows) {
    for (const std::string& pattern : row.match) {
      const auto matches = [&](const std::string& name) { return matches_pattern(name, pattern); };
      require(std::any_of(names.begin(), names.end(), matches), kTable, "no layer matches \"{}\"{}", pattern,
              suggestion(pattern, names));
    }
  }
}

ScheduleTable parse_schedule(const nlohmann::json& json, const std::string& source) {
  check_keys(json, {"length", "epochs", "forward", "gradient", "layer"}, source);
  ScheduleTable table;
  table.epochs = read_epochs(json, source);
  if (const auto length = json.find("length"); length != json.end()) {
    require(length->is_number() && length->get<double>() > table.epochs.back(), kTable,
            "{}: length must be a number above the last of epochs, got {}", source, length->dump());
    table.length = length->get<double>();
  }
  const size_t columns = table.epochs.size();
  table.others.forward = read_columns(json, "forward", columns, source);
  table.others.gradient = read_columns(json, "gradient", columns, source);
  const nlohmann::json layers = json.value("layer", nlohmann::json::array());
  require(layers.is_array(), kTable, "{}: layer must be a list of tables, got {}", source, layers.dump());
  for (const nlohmann::json& one : layers) {
    check_keys(one, {"match", "forward", "gradient"}, source + ", layer");
    table.rows.push_back({.match = read_match(one, source),
                          .forward = read_columns(one, "forward", columns, source),
                          .gradient = read_columns(one, "gradient", columns, source)});
  }
  return table;
}

nlohmann::json read_schedule_file(const std::string& path) {
  std::ifstream stream(path);
  std::ostringstream text;
  text << stream.rdbuf();
  require(stream.good(), kTable, "cannot read {}", path);
  try {
    if (path.ends_with(".json")) return nlohmann::json::parse(text.str());
    std::ostringstream converted;
    converted << toml::json_formatter{toml::parse(text.str(), path)};
    return nlohmann::json::parse(converted.str());
  } catch (const nlohmann::json::parse_error& error) {
    fail(kTable, "{}: {}", path, error.what());
  } catch (const toml::parse_error& error) {
    fail(kTable, "{}:{}: {}", path, error.source().begin.line, error.description());
  }
}

std::vector<std::string> schedule_presets() { return {"ldp-1", "ldp-2", "ldp-3"}; }

nlohmann::json schedule_preset(std::string_view name) {
  // Bits of stages 1 to 3 in epochs 0-30, 30-60 and 60-90.
  using Rotation = std::array<std::array<int, 3>, 3>;
  constexpr std::array<Rotation, 3> kRotations{{{{{4, 6, 8}, {6, 8, 4}, {8, 4, 6}}},
                                                {{{6, 8, 4}, {8, 4, 6}, {4, 6, 8}}},
                                                {{{8, 4, 6}, {4, 6, 8}, {6, 8, 4}}}}};
  const std::vector<std::string> names = schedule_presets();
  const auto found = std::find(names.begin(), names.end(), name);
  require(found != names.end(), kTable, "there is no schedule \"{}\"{}", name, suggestion(name, names));
  const Rotation& rotation = kRotations[static_cast<size_t>(found - names.begin())];
  nlohmann::json layers = nlohmann::json::array();
  for (size_t stage = 0; stage < 3; ++stage) {
    nlohmann::json forward = nlohmann::json::array();
    for (const auto& period : rotation) forward.push_back(period[stage]);
    forward.push_back(8);
    layers.push_back({{"match", fmt::format("layer{}.*", stage + 1)}, {"forward", forward}});
  }
  return {{"length", 160}, {"epochs", {0, 30, 60, 90}}, {"layer", layers}};
}

}  // namespace bitdial::policies
