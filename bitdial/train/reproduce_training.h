#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bitdial/train/recipe.h"
#include "bitdial/train/trainer.h"

/// The trainings behind published costs.
namespace bitdial::train {

/// A row of a published table that has an accuracy.
struct ReproducedTraining {
  std::string name;                   ///< "ResNet-38 CIFAR-100, 3-8/8"
  std::string recipe;                 ///< of the program's recipes: "cifar100-resnet38-cpt"
  std::vector<std::string> settings;  ///< on top of it, as of --set
  double accuracy = 0.0;              ///< percent, as published: the best of a run, or the mean of runs
};

/// The rows of a group of reproduced_groups(); empty for one that compares formulas alone.
std::vector<ReproducedTraining> reproduced_trainings(std::string_view group);

/// A constant that a shorter run has in another value than the published one.
struct ScaledConstant {
  std::string key;  ///< "schedule.milestones"
  std::string published, scaled;
};

/// Makes a recipe `epochs` long: what counts steps or epochs of the run shrinks with it, and what the papers'
/// own code changes for short runs (LDP's lr_beta). Returns what changed.
std::vector<ScaledConstant> scale_recipe(Recipe& recipe, int64_t epochs, int64_t steps_per_epoch);

/// Optimiser steps of one epoch of the recipe's training images; opens the data set.
int64_t steps_per_epoch(const Recipe& recipe);

/// Trains the recipe into `directory`; goes on with a run that was stopped there, and takes a finished one as
/// it is. Throws Error when the folder holds a run of another recipe.
TrainSummary train_or_resume(const Recipe& recipe, const std::filesystem::path& directory,
                             const TrainOptions& options);

/// The runs of one row.
struct TrainedRow {
  std::vector<double> best, last;  ///< percent, one per seed
  double ratio_fw8bw8 = 0.0;       ///< analytic cost, of the last run
  double images_per_s = 0.0;       ///< measured, of the last run; 0: unknown

  /// Reads a finished run. Throws Error when it was never evaluated.
  void add(const std::filesystem::path& run);
  double mean_best() const;
  double mean_last() const;
};

/// An object like that of a cell, with the keys name, paper, ours, difference, tolerance and ok; the last two
/// are null, since published accuracies are single runs of full length. Besides: best, last (one per seed),
/// epochs, seeds, ratio_fw8bw8, measured_images_per_s.
nlohmann::ordered_json to_json(std::string_view group, const ReproducedTraining& training,
                               const TrainedRow& row, int64_t epochs);

}  // namespace bitdial::train
