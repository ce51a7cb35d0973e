#include "bitdial/policies/schedule_policy.h"

#include <algorithm>

#include "bitdial/core/error.h"

namespace bitdial::policies {

SchedulePolicy::SchedulePolicy(OptionReader& options) : SharedPolicy(options) {
  const auto preset = options.choice<std::string>(
      "preset", "none", {{"none", ""}, {"ldp-1", "ldp-1"}, {"ldp-2", "ldp-2"}, {"ldp-3", "ldp-3"}},
      "a table that comes with bitdial: the rows of LDP's Table 1");
  const std::string file = options.text("file", "", "name of a file", "a table in TOML or JSON");
  const nlohmann::json inlined = options.object("table", "the table itself, in the recipe");
  stretch_ = options.flag("stretch", false,
                          "epochs of the table are shares of its length and follow the length of the run");
  keep_options(options);
  const int given = int{!preset.empty()} + int{!file.empty()} + int{!inlined.empty()};
  require(given <= 1, "policies",
          "\"schedule\" takes one of the options \"preset\", \"file\" and \"table\", got {}", given);
  if (!preset.empty()) {
    source_ = schedule_preset(preset);
  } else {
    source_ = file.empty() ? inlined : read_schedule_file(file);
  }
  table_ = parse_schedule(source_, file.empty() ? "the table" : file);
  require(!stretch_ || table_.length, "policies",
          "option \"stretch\" of \"schedule\" needs a table with length");
}

void SchedulePolicy::attach(std::span<const LayerInfo> layers) {
  SharedPolicy::attach(layers);
  table_.check_patterns(layers);
  rows_.clear();
  for (const LayerInfo& layer : layers) rows_.push_back(&table_.row(layer.name));
}

void SchedulePolicy::begin_step(const StepInfo& step) {
  epoch_ = stretch_ ? static_cast<double>(step.step) * *table_.length /
                          static_cast<double>(std::max<int64_t>(step.total_steps, 1))
                    : static_cast<double>(step.epoch);
}

SharedBits SchedulePolicy::wanted_bits(int layer) const {
  const ScheduleTable::Row& row = *rows_.at(static_cast<size_t>(layer));
  const size_t column = table_.column(epoch_);
  return {.forward = row.forward[column], .gradient = row.gradient[column]};
}

void SchedulePolicy::explain(TensorId, TensorPlan& plan) const {
  const size_t column = table_.column(epoch_);
  plan.reason = fmt::format("column {} of the table, from epoch {:g}", column, table_.epochs[column]);
  plan.evidence = {{"epoch", epoch_}, {"column", column}};
}

std::optional<TensorPlan> SchedulePolicy::redecide(TensorId id, const StepInfo&,
                                                   const nlohmann::json& evidence) {
  epoch_ = evidence.value("epoch", 0.0);  // layers with fixed bits have no epoch
  return TensorPlan{.format = evaluation_format(id), .params = {}, .reason = {}, .evidence = {}};
}

nlohmann::json SchedulePolicy::state() const {
  return {{"shared", SharedPolicy::state()}, {"table", source_}, {"epoch", epoch_}};
}

void SchedulePolicy::load_state(const nlohmann::json& state) {
  require(state.at("table") == source_, "schedule", "the saved state was made with another table: {}",
          state.at("table").dump());
  SharedPolicy::load_state(state.at("shared"));
  state.at("epoch").get_to(epoch_);
}

nlohmann::json schedule_argument(std::string_view text) {
  const std::vector<std::string> presets = schedule_presets();
  const bool is_preset = std::find(presets.begin(), presets.end(), text) != presets.end();
  return {{is_preset ? "preset" : "file", std::string(text)}};
}

}  // namespace bitdial::policies
