#include "bitdial/train/reproduce_training.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "bitdial/core/error.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/run_directory.h"
#include "bitdial/train/run_report.h"
#include "bitdial/train/setup.h"

namespace bitdial::train {

namespace {

/// LDP: shorter runs would not reach the limit on cost with the published rate of 0.1; 1 is a released value.
constexpr int64_t kShortLdpRun = 20;

/// Options of policies that count iterations of the run, with their published values.
struct CountedOption {
  const char* policy;
  const char* option;
  double published;
};
constexpr std::array kCounted{CountedOption{"pfq", "eval_every", 400},
                              CountedOption{"fractrain", "eval_every", 390}};

std::string number(double value) { return fmt::format("{:g}", value); }

/// Keeps count of what was changed.
class Scaling {
 public:
  explicit Scaling(double factor) : factor_(factor) {}

  /// Whole numbers of at least 1.
  double count(const std::string& key, double published) {
    return note(key, published, std::max(1.0, std::round(factor_ * published)));
  }
  double note(const std::string& key, double published, double scaled) {
    if (scaled != published) changes_.push_back({key, number(published), number(scaled)});
    return scaled;
  }
  void list(const std::string& key, std::vector<double>& values) {
    const std::vector<double> published = values;
    for (double& value : values) value = std::max(1.0, std::round(factor_ * value));
    if (values != published) changes_.push_back({key, text(published), text(values)});
  }
  std::vector<ScaledConstant> take() { return std::move(changes_); }

 private:
  static std::string text(const std::vector<double>& values) {
    return fmt::format("{:g}", fmt::join(values, " "));
  }

  double factor_;
  std::vector<ScaledConstant> changes_;
};

void scale_schedule(ScheduleRecipe& schedule, Scaling& scaling) {
  scaling.list("schedule.milestones", schedule.milestones);
  if (schedule.step_size > 0.0) schedule.step_size = scaling.count("schedule.step_size", schedule.step_size);
  if (schedule.warmup > 0.0) schedule.warmup = scaling.count("schedule.warmup", schedule.warmup);
}

void scale_policy(PrecisionRecipe& precision, int64_t epochs, Scaling& scaling) {
  for (const CountedOption& counted : kCounted) {
    if (precision.policy != counted.policy) continue;
    const double published = precision.options.value(counted.option, counted.published);
    precision.options[counted.option] =
        static_cast<int64_t>(scaling.count(fmt::format("precision.options.{}", counted.option), published));
  }
  if (precision.policy == "ldp" && epochs < kShortLdpRun)
    precision.options["lr_beta"] =
        scaling.note("precision.options.lr_beta", precision.options.value("lr_beta", 0.1), 1.0);
}

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

int64_t steps_per_epoch(const Recipe& recipe) {
  const data::Loader loader(open_split(recipe, data::Split::kTrain),
                            loader_options(recipe, data::Split::kTrain));
  return loader.batches();
}

std::vector<ScaledConstant> scale_recipe(Recipe& recipe, int64_t epochs, int64_t steps_per_epoch) {
  require(epochs >= 1 && steps_per_epoch >= 1, "reproduce", "a run has at least one epoch, not {}", epochs);
  const auto all = static_cast<double>(total_steps(recipe.train, steps_per_epoch));
  const double factor = static_cast<double>(steps_per_epoch * epochs) / all;
  if (factor >= 1.0) return {};
  Scaling scaling(factor);
  scaling.note("train.epochs", static_cast<double>(recipe.train.epochs), static_cast<double>(epochs));
  recipe.train.epochs = epochs;
  scaling.note("train.steps", static_cast<double>(recipe.train.steps), 0.0);
  recipe.train.steps = 0;
  scale_schedule(recipe.schedule, scaling);
  scale_policy(recipe.precision, epochs, scaling);
  check_recipe(recipe);
  return scaling.take();
}

TrainSummary train_or_resume(const Recipe& recipe, const std::filesystem::path& directory,
                             const TrainOptions& options) {
  if (!RunDirectory::is_run(directory)) return train(recipe, directory, options);
  require(load_recipe(directory / "recipe.toml") == recipe, "reproduce",
          "{} holds a run with other settings (epochs, data or program): choose another folder with --out",
          directory.string());
  if (!list_checkpoints(directory / "checkpoints").empty()) return resume(directory, options);
  std::filesystem::remove_all(directory);  // killed before its first checkpoint: nothing to go on from
  return train(recipe, directory, options);
}

void TrainedRow::add(const std::filesystem::path& run) {
  const RunReport report = report_run(run);
  require(report.best_accuracy.has_value(), "reproduce", "{} was never evaluated", run.string());
  best.push_back(100.0 * *report.best_accuracy);
  last.push_back(100.0 * *report.last_accuracy);
  ratio_fw8bw8 = report.cost.totals.ratio_fw8bw8;
  images_per_s = report.images_per_s.value_or(0.0);
}

double TrainedRow::mean_best() const { return mean_of(best); }
double TrainedRow::mean_last() const { return mean_of(last); }

nlohmann::ordered_json to_json(std::string_view group, const ReproducedTraining& training,
                               const TrainedRow& row, int64_t epochs) {
  const double ours = row.mean_best();
  return {{"name", fmt::format("{}: {}, accuracy %", group, training.name)},
          {"paper", training.accuracy},
          {"ours", ours},
          {"difference", ours - training.accuracy},
          {"tolerance", nullptr},
          {"ok", nullptr},
          {"best", row.best},
          {"last", row.last},
          {"epochs", epochs},
          {"seeds", row.best.size()},
          {"ratio_fw8bw8", row.ratio_fw8bw8},
          {"measured_images_per_s", row.images_per_s}};
}

}  // namespace bitdial::train
