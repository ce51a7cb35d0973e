#include "bitdial/train/run_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/json_lines.h"
#include "bitdial/train/recipe.h"

namespace bitdial::train {

namespace {

void take_accuracy(const nlohmann::json& line, const char* key, std::optional<double>& best,
                   std::optional<double>& last) {
  if (!line.contains(key) || line.at(key).is_null()) return;  // this epoch was not evaluated
  last = line.at(key).get<double>();
  best = std::max(best.value_or(*last), *last);
}

std::optional<double> median(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void read_metrics(const std::filesystem::path& run, RunReport& report) {
  std::vector<double> speeds;
  for_each_line(run / "metrics.jsonl", [&](const nlohmann::json& line) {
    if (line.contains("macs_percent")) line.at("macs_percent").get_to(report.macs_percent);
    if (line.at("kind") != "epoch") return;
    take_accuracy(line, "accuracy", report.best_accuracy, report.last_accuracy);
    take_accuracy(line, "final_accuracy", report.best_final_accuracy, report.last_final_accuracy);
    take_accuracy(line, "validation_accuracy", report.best_validation_accuracy,
                  report.last_validation_accuracy);
    if (line.at("images_per_s").is_number()) speeds.push_back(line.at("images_per_s").get<double>());
  });
  report.images_per_s = median(std::move(speeds));
}

void read_gemms(const std::filesystem::path& run, RunReport& report) {
  if (!std::filesystem::exists(run / "gemms.jsonl")) return;
  for_each_line(run / "gemms.jsonl", [&](const nlohmann::json& line) {
    const auto found = std::find_if(
        report.layers.begin(), report.layers.end(),
        [&](const LayerReport& layer) { return layer.name == line.at("layer").get<std::string>(); });
    if (found == report.layers.end()) return;
    for (const Gemm gemm : {Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad}) {
      if (line.at("gemm") == to_string(gemm))
        line.at("arithmetic").get_to(found->arithmetic[static_cast<size_t>(gemm)]);
    }
  });
}

// Of a fold "3/10" only the number of folds stays.
std::string setting_of(Recipe recipe) {
  recipe.train.seed = 0;
  recipe.train.threads = 0;
  recipe.data.directory.clear();
  recipe.data.fold.erase(0, recipe.data.fold.find('/') == std::string::npos ? 0 : recipe.data.fold.find('/'));
  return to_toml(recipe);
}

nlohmann::ordered_json optional_json(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

nlohmann::ordered_json layer_json(const LayerReport& layer) {
  nlohmann::ordered_json arithmetic = nlohmann::ordered_json::object();
  for (const Gemm gemm : {Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad}) {
    const std::string& name = layer.arithmetic[static_cast<size_t>(gemm)];
    if (!name.empty()) arithmetic[std::string(to_string(gemm))] = name;
  }
  return {{"name", layer.name},
          {"macs", layer.macs},
          {"bits",
           {{"w", layer.bits.w},
            {"x", layer.bits.x},
            {"x_wtgrad", layer.bits.x_wtgrad},
            {"dy_bprop", layer.bits.dy_bprop},
            {"dy_wtgrad", layer.bits.dy_wtgrad}}},
          {"arithmetic", std::move(arithmetic)}};
}

}  // namespace

RunReport report_run(const std::filesystem::path& run) {
  RunReport report;
  report.cost = cost_of_run(run);
  const Recipe recipe = load_recipe(run / "recipe.toml");
  const Checkpoint checkpoint = read_checkpoint(find_checkpoint(run, /*best=*/false));
  report.model = report.cost.model;
  report.data = recipe.data.name;
  report.policy = describe_policy(recipe.precision);
  report.arithmetic = make_policy(recipe.precision)->quantizes() ? recipe.precision.arithmetic : "float";
  report.seed = recipe.train.seed;
  report.fold = recipe.data.fold;
  report.setting = setting_of(recipe);
  report.epochs = checkpoint.progress.epoch;
  report.steps = checkpoint.progress.step;
  report.finished = checkpoint.progress.finished;
  for (size_t l = 0; l < report.cost.network.layers.size(); ++l) {
    const cost::LayerCharge& layer = report.cost.network.layers[l];
    report.layers.push_back({layer.name, layer.macs, report.cost.last_bits[l], {}});
  }
  read_metrics(run, report);
  read_gemms(run, report);
  return report;
}

nlohmann::ordered_json to_json(const RunReport& report) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const LayerReport& layer : report.layers) layers.push_back(layer_json(layer));
  nlohmann::ordered_json paper = to_json(report.cost, cost::Convention::kPaper);
  const cost::CostTotals& totals = report.cost.totals;
  paper["gbitops_actual"] = totals.gbitops_actual;
  paper["ratio_fw8bw8_actual"] = totals.ratio_fw8bw8_actual;
  paper["ratio_float32_actual"] = totals.ratio_float32_actual;
  return {{"model", report.model},
          {"data", report.data},
          {"policy", report.policy},
          {"arithmetic", report.arithmetic},
          {"seed", report.seed},
          {"fold", report.fold},
          {"epochs", report.epochs},
          {"steps", report.steps},
          {"finished", report.finished},
          {"best_accuracy", optional_json(report.best_accuracy)},
          {"last_accuracy", optional_json(report.last_accuracy)},
          {"best_final_accuracy", optional_json(report.best_final_accuracy)},
          {"last_final_accuracy", optional_json(report.last_final_accuracy)},
          {"best_validation_accuracy", optional_json(report.best_validation_accuracy)},
          {"last_validation_accuracy", optional_json(report.last_validation_accuracy)},
          {"analytic", std::move(paper)},
          {"macs_percent", report.macs_percent},
          {"measured", {{"images_per_s", optional_json(report.images_per_s)}}},
          {"layers", std::move(layers)}};
}

}  // namespace bitdial::train
