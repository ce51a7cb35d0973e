#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bitdial/train/cost_estimate.h"

/// What a run came to, from its directory alone.
namespace bitdial::train {

/// One layer at the end of a run.
struct LayerReport {
  std::string name;
  int64_t macs = 0;  ///< of one GEMM and sample
  LayerBits bits;
  std::array<std::string, kGemms> arithmetic;  ///< by Gemm; empty: does not run
};

struct RunReport {
  std::string model, data, policy, arithmetic;
  int64_t seed = 0;
  std::string fold;  ///< held out, "3/10"; empty: none
  /// Equal for runs that differ in nothing but seed, fold, place of the data and threads.
  std::string setting;
  int64_t epochs = 0, steps = 0;
  bool finished = false;
  std::optional<double> best_accuracy, last_accuracy;              ///< 0..1, on the test split
  std::optional<double> best_final_accuracy, last_final_accuracy;  ///< in the policy's final precision
  std::optional<double> best_validation_accuracy, last_validation_accuracy;  ///< on what is held out
  CostEstimate cost;                           ///< analytic, of all steps that the checkpoint knows
  std::map<std::string, double> macs_percent;  ///< of all steps, by arithmetic
  std::vector<LayerReport> layers;
  std::optional<double> images_per_s;  ///< measured: median over the epochs
};

/// Throws Error unless `run` holds a run with a checkpoint.
RunReport report_run(const std::filesystem::path& run);

/// Keys: model, data, policy, arithmetic, seed, fold, epochs, steps, finished, best_accuracy, last_accuracy,
/// best_final_accuracy and last_final_accuracy, best_validation_accuracy and last_validation_accuracy (null
/// where there is none), analytic (as of `bitdial cost`), measured (images_per_s), macs_percent, layers
/// (name, macs, bits, arithmetic by GEMM).
nlohmann::ordered_json to_json(const RunReport& report);

}  // namespace bitdial::train
