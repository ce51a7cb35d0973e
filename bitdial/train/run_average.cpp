#include "bitdial/train/run_average.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

namespace bitdial::train {

namespace {

/// of(report) -> std::optional<double>
template <class Of>
std::optional<Spread> spread_over(const RunAverage& average, std::span<const RunReport> reports,
                                  const Of& of) {
  std::vector<double> values;
  for (const size_t run : average.runs) {
    const std::optional<double> value = of(reports[run]);
    if (!value) return std::nullopt;
    values.push_back(*value);
  }
  return spread_of(values);
}

void take_spreads(RunAverage& average, std::span<const RunReport> reports) {
  const auto over = [&](auto of) { return spread_over(average, reports, of); };
  const auto over_totals = [&](auto of) {
    return over([&](const RunReport& run) { return std::optional<double>(of(run.cost.totals)); });
  };
  average.best_accuracy = over([](const RunReport& run) { return run.best_accuracy; });
  average.last_accuracy = over([](const RunReport& run) { return run.last_accuracy; });
  average.best_final_accuracy = over([](const RunReport& run) { return run.best_final_accuracy; });
  average.last_final_accuracy = over([](const RunReport& run) { return run.last_final_accuracy; });
  average.best_validation_accuracy = over([](const RunReport& run) { return run.best_validation_accuracy; });
  average.last_validation_accuracy = over([](const RunReport& run) { return run.last_validation_accuracy; });
  average.bits_w = over_totals([](const cost::CostTotals& totals) { return totals.mean_bits.w; });
  average.bits_x = over_totals([](const cost::CostTotals& totals) { return totals.mean_bits.x; });
  average.bits_dy = over_totals([](const cost::CostTotals& totals) { return totals.mean_bits.dy; });
  average.ratio_fw8bw8 = over_totals([](const cost::CostTotals& totals) { return totals.ratio_fw8bw8; });
  average.ratio_float32 = over_totals([](const cost::CostTotals& totals) { return totals.ratio_float32; });
  average.size_ratio = over_totals([](const cost::CostTotals& totals) { return totals.size_ratio; });
}

nlohmann::ordered_json spread_json(const std::optional<Spread>& spread) {
  if (!spread) return {};
  return {{"mean", spread->mean}, {"deviation", spread->deviation}};
}

}  // namespace

std::optional<Spread> spread_of(std::span<const double> values) {
  if (values.size() < 2) return std::nullopt;
  const auto count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0.0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return Spread{mean, std::sqrt(squares / (count - 1.0))};
}

std::vector<RunAverage> average_runs(std::span<const RunReport> reports) {
  std::vector<RunAverage> averages;
  for (size_t run = 0; run < reports.size(); ++run) {
    if (!reports[run].finished) continue;
    const auto same = std::ranges::find_if(averages, [&](const RunAverage& average) {
      return reports[average.runs.front()].setting == reports[run].setting;
    });
    RunAverage& average = same == averages.end() ? averages.emplace_back() : *same;
    average.runs.push_back(run);
  }
  std::erase_if(averages, [](const RunAverage& average) { return average.runs.size() < 2; });
  for (RunAverage& average : averages) take_spreads(average, reports);
  return averages;
}

nlohmann::ordered_json to_json(const RunAverage& average, std::span<const std::string> names) {
  nlohmann::ordered_json runs = nlohmann::ordered_json::array();
  for (const size_t run : average.runs) runs.push_back(names[run]);
  return {{"mean_of", std::move(runs)},
          {"best_accuracy", spread_json(average.best_accuracy)},
          {"last_accuracy", spread_json(average.last_accuracy)},
          {"best_final_accuracy", spread_json(average.best_final_accuracy)},
          {"last_final_accuracy", spread_json(average.last_final_accuracy)},
          {"best_validation_accuracy", spread_json(average.best_validation_accuracy)},
          {"last_validation_accuracy", spread_json(average.last_validation_accuracy)},
          {"bits_w", spread_json(average.bits_w)},
          {"bits_x", spread_json(average.bits_x)},
          {"bits_dy", spread_json(average.bits_dy)},
          {"ratio_fw8bw8", spread_json(average.ratio_fw8bw8)},
          {"ratio_float32", spread_json(average.ratio_float32)},
          {"size_ratio", spread_json(average.size_ratio)}};
}

}  // namespace bitdial::train
