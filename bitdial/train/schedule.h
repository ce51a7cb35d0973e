#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

#include "bitdial/core/policy.h"
#include "bitdial/train/recipe.h"

namespace bitdial::train {

/// torch.optim.lr_scheduler.ReduceLROnPlateau: after more than `patience` epochs without a better metric the
/// rate is multiplied by `factor`, then `cooldown` epochs are not counted.
class Plateau {
 public:
  Plateau(const ScheduleRecipe& recipe, double learning_rate);

  void add(double metric);
  double learning_rate() const { return learning_rate_; }

  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);

 private:
  bool is_better(double metric) const;

  ScheduleRecipe recipe_;
  bool larger_is_better_;
  double learning_rate_;
  double best_;
  int64_t bad_epochs_ = 0;
  int64_t cooldown_left_ = 0;
};

/// The learning rate of every optimiser step. All but "plateau" are functions of the step alone:
/// torch.optim's MultiStepLR and StepLR (lengths in epochs may be fractions), CosineAnnealingLR over what
/// warm-up leaves, and LinearLR for the warm-up: rate * (factor + (1 - factor) * step / length).
class Schedule {
 public:
  /// `learning_rate` is the optimiser's; `total_steps` the length of the run.
  Schedule(const ScheduleRecipe& recipe, double learning_rate, int64_t steps_per_epoch, int64_t total_steps);

  /// Of one step, counted from 0 over the whole run.
  double learning_rate(int64_t step) const;

  /// After each epoch; only "plateau" listens, and only to epochs that have its metric.
  void end_epoch(const EpochReport& report);

  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);

 private:
  double scheduled(int64_t step) const;
  double to_steps(double length) const;

  ScheduleRecipe recipe_;
  double learning_rate_;
  int64_t steps_per_epoch_;
  int64_t total_steps_;
  double warmup_steps_;
  Plateau plateau_;
};

}  // namespace bitdial::train
