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
  models::Options options;
  options.classes = checkpoint.classes;
  options.in_channels = checkpoint.in_channels;
  options.image_size = checkpoint.image_size;
  const auto known = layer_infos(models::layer_table(checkpoint.model, options));
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

class Replay {
 public:
  Replay(const Recipe& recipe, const Checkpoint& checkpoint)
      : layers_(layers_of(checkpoint)), policy_(make_policy(recipe.precision)) {
    policy_->attach(layers_);
    require(checkpoint.steps_per_epoch > 0, "replay",
            "the checkpoint does not say how many steps an epoch has: it is of an older version");
    step_.steps_per_epoch = checkpoint.steps_per_epoch;
    step_.total_steps = total_steps(recipe.train, checkpoint.steps_per_epoch);
    report_.policy = recipe.precision.policy;
  }

  void add(const nlohmann::json& line) {
    ++report_.decisions;
    step_.step = line.at("step").get<int64_t>();
    step_.epoch = step_.step / step_.steps_per_epoch;
    const nlohmann::json evidence = line.value("evidence", nlohmann::json::object());
    const std::optional<TensorPlan> plan = policy_->redecide(operand_of(line), step_, evidence);
    if (!plan) return;
    ++report_.replayed;
    compare("bits", line, plan->format.word_length, line);
    if (plan->format.rule == ScaleRule::kFixed) {
      compare("fraction_length", line, plan->format.fraction_length, line);
    } else if (plan->params) {
      compare("scale_log2", line, std::log2(plan->params->scale), line);
    }
    if (!plan->evidence.is_object()) return;
    for (const auto& [key, value] : plan->evidence.items()) compare(key, evidence, value, line);
  }

  ReplayReport take_report() { return std::move(report_); }

 private:
  TensorId operand_of(const nlohmann::json& line) const {
    const auto name = line.at("layer").get<std::string>();
    const auto found = std::find_if(layers_.begin(), layers_.end(),
                                    [&](const LayerInfo& info) { return info.name == name; });
    require(found != layers_.end(), "replay", "precision.jsonl, line {}: the network has no layer {}",
            report_.decisions, name);
    const auto tensor = line.at("tensor").get<std::string>();
    for (int role = 0; role < kTensorRoles; ++role) {
      if (to_string(static_cast<TensorRole>(role)) == tensor)
        return {static_cast<int>(found - layers_.begin()), static_cast<TensorRole>(role)};
    }
    fail("replay", "precision.jsonl, line {}: there is no tensor {}", report_.decisions, tensor);
  }

  void compare(const std::string& what, const nlohmann::json& logged, const nlohmann::json& replayed,
               const nlohmann::json& line) {
    const nlohmann::json value = logged.value(what, nlohmann::json());
    if (value == replayed) return;
    report_.differences.push_back({report_.decisions, step_.step, line.at("layer"), line.at("tensor"), what,
                                   value.dump(), replayed.dump()});
  }

  std::vector<LayerInfo> layers_;
  std::shared_ptr<Policy> policy_;
  StepInfo step_;
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
