#include "bitdial/train/replay.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "bitdial/core/error.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/json_lines.h"
#include "bitdial/train/network_charge.h"
#include "bitdial/train/recipe.h"
#include "bitdial/train/run_directory.h"

namespace bitdial::train {

namespace {

/// The layers as the run's session named them, in its order.
std::vector<LayerInfo> layers_of(const Checkpoint& checkpoint) {
  const auto known = layer_infos(layer_table(checkpoint.network));
  std::vector<LayerInfo> layers;
  for (const nlohmann::json& saved : checkpoint.session.at("layers")) {
    const auto name = saved.at("name").get<std::string>();
    const auto found =
        std::find_if(known.begin(), known.end(), [&](const LayerInfo& info) { return info.name == name; });
    LayerInfo info = found != known.end() ? *found : LayerInfo{};
    info.name = name;
    info.is_first = layers.empty();
    info.is_last = layers.size() + 1 == checkpoint.session.at("layers").size();
    layers.push_back(std::move(info));
  }
  return layers;
}

/// Sums may have been added in another order.
bool are_equal(const nlohmann::json& logged, const nlohmann::json& replayed) {
  constexpr double kTolerance = 1e-12;
  if (!logged.is_number_float() || !replayed.is_number()) return logged == replayed;
  const auto a = logged.get<double>();
  const auto b = replayed.get<double>();
  return std::fabs(a - b) <= kTolerance * std::max(std::fabs(a), std::fabs(b));
}

class Replay {
 public:
  Replay(const Recipe& recipe, const Checkpoint& checkpoint)
      : layers_(layers_of(checkpoint)), policy_(make_policy(recipe.precision)) {
    policy_->set_arithmetic(recipe.precision.arithmetic == "integer");
    policy_->attach(layers_);
    require(checkpoint.steps_per_epoch > 0, "replay",
            "the checkpoint does not say how many steps an epoch has: it is of an older version");
    step_.steps_per_epoch = checkpoint.steps_per_epoch;
    step_.total_steps = total_steps(recipe.train, checkpoint.steps_per_epoch);
    report_.policy = recipe.precision.policy;
  }

  /// Lines come by step; within one, a line with evidence may follow those that only show its effect.
  void add(const nlohmann::json& line) {
    ++report_.decisions;
    const auto step = line.at("step").get<int64_t>();
    if (step != step_.step) decide_step();
    step_.step = step;
    lines_.push_back({report_.decisions, line});
  }

  ReplayReport take_report() {
    decide_step();
    return std::move(report_);
  }

 private:
  struct Line {
    int64_t number = 0;
    nlohmann::json json;
    bool has_evidence() const { return json.contains("evidence"); }
  };

  void decide_step() {
    step_.epoch = step_.step / step_.steps_per_epoch;
    std::stable_partition(lines_.begin(), lines_.end(), [](const Line& line) { return line.has_evidence(); });
    for (const Line& line : lines_) decide(line);
    lines_.clear();
  }

  void decide(const Line& line) {
    const nlohmann::json evidence = line.json.value("evidence", nlohmann::json::object());
    const std::optional<TensorPlan> plan = policy_->redecide(operand_of(line), step_, evidence);
    if (!plan) return;
    ++report_.replayed;
    compare("bits", line.json, plan->format.word_length, line);
    if (plan->format.rule == ScaleRule::kFixed) {
      compare("fraction_length", line.json, plan->format.fraction_length, line);
    } else if (plan->params) {
      compare("scale_log2", line.json, std::log2(plan->params->scale), line);
    }
    if (!plan->evidence.is_object()) return;
    for (const auto& [key, value] : plan->evidence.items()) compare(key, evidence, value, line);
  }

  TensorId operand_of(const Line& line) const {
    const auto name = line.json.at("layer").get<std::string>();
    const auto found = std::find_if(layers_.begin(), layers_.end(),
                                    [&](const LayerInfo& info) { return info.name == name; });
    require(found != layers_.end(), "replay", "precision.jsonl, line {}: the network has no layer {}",
            line.number, name);
    const auto tensor = line.json.at("tensor").get<std::string>();
    for (int role = 0; role < kTensorRoles; ++role) {
      if (to_string(static_cast<TensorRole>(role)) == tensor)
        return {static_cast<int>(found - layers_.begin()), static_cast<TensorRole>(role)};
    }
    fail("replay", "precision.jsonl, line {}: there is no tensor {}", line.number, tensor);
  }

  void compare(const std::string& what, const nlohmann::json& logged, const nlohmann::json& replayed,
               const Line& line) {
    const nlohmann::json value = logged.value(what, nlohmann::json());
    if (are_equal(value, replayed)) return;
    report_.differences.push_back({line.number, step_.step, line.json.at("layer"), line.json.at("tensor"),
                                   what, value.dump(), replayed.dump()});
  }

  std::vector<LayerInfo> layers_;
  std::shared_ptr<Policy> policy_;
  StepInfo step_;
  std::vector<Line> lines_;  // of this step
  ReplayReport report_;
};

}  // namespace

ReplayReport replay_run(const std::filesystem::path& run) {
  require(RunDirectory::is_run(run), "replay", "{} holds no run: it has no recipe.toml", run.string());
  const Recipe recipe = load_recipe(run / "recipe.toml");
  const Checkpoint checkpoint = read_checkpoint(find_checkpoint(run, /*best=*/false));
  Replay replay(recipe, checkpoint);
  for_each_line(run / "precision.jsonl", [&](const nlohmann::json& line) { replay.add(line); });
  return replay.take_report();
}

}  // namespace bitdial::train
