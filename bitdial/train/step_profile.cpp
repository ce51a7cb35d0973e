#include "bitdial/train/step_profile.h"

#include <nlohmann/json.hpp>
#include <numeric>

#include "bitdial/kernels/reference_loop.h"

namespace bitdial::train {
namespace {

constexpr int kReferenceRuns = 50;

}  // namespace

double ProfileRow::total_ms() const { return std::accumulate(ms.begin(), ms.end(), 0.0); }

StepProfile summarise(const Profile& profile, std::span<const LayerInfo> layers, int64_t steps,
                      int64_t images) {
  StepProfile result;
  result.steps = steps;
  kernels::ReferenceLoop reference;
  for (int i = 0; i < kReferenceRuns; ++i) reference.run();
  result.peak_gops = 1e-9 * reference.best();
  result.sum.layer = "all";
  double operations = 0.0;
  const auto rate = [&](ProfileRow& row, double work) {
    const double gemm_seconds = 1e-3 * row.ms[static_cast<size_t>(Phase::kGemm)];
    if (work <= 0.0 || gemm_seconds <= 0.0) return;
    row.gops = 1e-9 * work / static_cast<double>(steps) / gemm_seconds;
    row.share = *row.gops / result.peak_gops;
  };
  const auto add = [&](int layer, std::string name, double work) {
    const auto found = profile.seconds().find(layer);
    if (found == profile.seconds().end()) return;
    ProfileRow row;
    row.layer = std::move(name);
    for (size_t i = 0; i < kPhases; ++i) {
      row.ms[i] = 1e3 * found->second[i] / static_cast<double>(steps);
      result.sum.ms[i] += row.ms[i];
    }
    rate(row, work);
    operations += work;
    result.rows.push_back(std::move(row));
  };
  for (size_t i = 0; i < layers.size(); ++i) {
    // The first layer has no BPROP.
    const double gemms = layers[i].is_first ? 2.0 : 3.0;
    add(static_cast<int>(i), layers[i].name,
        2.0 * gemms * static_cast<double>(layers[i].macs) * static_cast<double>(images));
  }
  add(Profile::kNoLayer, "", 0.0);
  rate(result.sum, operations);
  return result;
}

nlohmann::ordered_json to_json(const StepProfile& profile) {
  auto layers = nlohmann::ordered_json::array();
  for (const ProfileRow& row : profile.rows) {
    nlohmann::ordered_json ms;
    for (size_t i = 0; i < kPhases; ++i) ms[std::string(to_string(static_cast<Phase>(i)))] = row.ms[i];
    const auto optional = [](const std::optional<double>& value) {
      return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
    };
    layers.push_back(
        {{"layer", row.layer}, {"gops", optional(row.gops)}, {"share", optional(row.share)}, {"ms", ms}});
  }
  return {{"steps", profile.steps}, {"peak_gops", profile.peak_gops}, {"layers", layers}};
}

}  // namespace bitdial::train
