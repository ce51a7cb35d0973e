#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bitdial/train/run_report.h"

/// Repetitions of one experiment: other seeds, other folds of a cross validation.
namespace bitdial::train {

struct Spread {
  double mean = 0.0;
  double deviation = 0.0;  ///< standard deviation of the sample, n - 1 in the denominator
};

/// Nothing for fewer than two values.
std::optional<Spread> spread_of(std::span<const double> values);

struct RunAverage {
  std::vector<size_t> runs;  ///< places in the list of reports
  // What every one of the runs has.
  std::optional<Spread> best_accuracy, last_accuracy;
  std::optional<Spread> best_final_accuracy, last_final_accuracy;
  std::optional<Spread> best_validation_accuracy, last_validation_accuracy;
  std::optional<Spread> bits_w, bits_x, bits_dy;  ///< plain means over layers and steps
  std::optional<Spread> ratio_fw8bw8, ratio_float32, size_ratio;
};

/// Finished runs of the same RunReport::setting, two or more each, in the order of their first.
std::vector<RunAverage> average_runs(std::span<const RunReport> reports);

/// Every value {mean, deviation}, null where there is none. `names`: of the reports.
nlohmann::ordered_json to_json(const RunAverage& average, std::span<const std::string> names);

}  // namespace bitdial::train
