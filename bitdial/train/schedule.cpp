#include "bitdial/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>

#include "bitdial/core/error.h"

namespace bitdial::train {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A rate that falls by less than this stays as it is (torch: eps).
constexpr double kSmallestDrop = 1e-8;

}  // namespace

Plateau::Plateau(const ScheduleRecipe& recipe, double learning_rate)
    : recipe_(recipe),
      larger_is_better_(recipe.metric == "validation_accuracy"),
      learning_rate_(learning_rate),
      best_(larger_is_better_ ? -kInfinity : kInfinity) {}

bool Plateau::is_better(double metric) const {
  const double direction = larger_is_better_ ? 1.0 : -1.0;
  const bool relative = recipe_.threshold_mode == "relative";
  const double bound =
      relative ? best_ * (1.0 + direction * recipe_.threshold) : best_ + direction * recipe_.threshold;
  return larger_is_better_ ? metric > bound : metric < bound;
}

void Plateau::add(double metric) {
  if (is_better(metric)) {
    best_ = metric;
    bad_epochs_ = 0;
  } else {
    ++bad_epochs_;
  }
  if (cooldown_left_ > 0) {
    --cooldown_left_;
    bad_epochs_ = 0;
  }
  if (bad_epochs_ <= recipe_.patience) return;
  const double lower = std::max(learning_rate_ * recipe_.factor, recipe_.minimum);
  if (learning_rate_ - lower > kSmallestDrop) learning_rate_ = lower;
  cooldown_left_ = recipe_.cooldown;
  bad_epochs_ = 0;
}

nlohmann::json Plateau::state() const {
  // JSON has no infinity: null until the first metric.
  const nlohmann::json best = std::isfinite(best_) ? nlohmann::json(best_) : nlohmann::json();
  return {{"learning_rate", learning_rate_},
          {"best", best},
          {"bad_epochs", bad_epochs_},
          {"cooldown_left", cooldown_left_}};
}

void Plateau::load_state(const nlohmann::json& state) {
  state.at("learning_rate").get_to(learning_rate_);
  if (!state.at("best").is_null()) state.at("best").get_to(best_);
  state.at("bad_epochs").get_to(bad_epochs_);
  state.at("cooldown_left").get_to(cooldown_left_);
}

Schedule::Schedule(const ScheduleRecipe& recipe, double learning_rate, int64_t steps_per_epoch,
                   int64_t total_steps)
    : recipe_(recipe),
      learning_rate_(learning_rate),
      steps_per_epoch_(std::max<int64_t>(steps_per_epoch, 1)),
      total_steps_(total_steps),
      warmup_steps_(to_steps(recipe.warmup)),
      plateau_(recipe, learning_rate) {
  require(warmup_steps_ < static_cast<double>(std::max<int64_t>(total_steps, 1)), "schedule",
          "warm-up takes {:g} steps, the whole run {}", warmup_steps_, total_steps);
}

double Schedule::to_steps(double length) const {
  return recipe_.unit == "epoch" ? length * static_cast<double>(steps_per_epoch_) : length;
}

double Schedule::learning_rate(int64_t step) const {
  const double scheduled_rate = scheduled(step);
  const auto done = static_cast<double>(step);
  if (done >= warmup_steps_) return scheduled_rate;
  // torch.optim.lr_scheduler.LinearLR.
  return scheduled_rate * (recipe_.warmup_factor + (1.0 - recipe_.warmup_factor) * done / warmup_steps_);
}

double Schedule::scheduled(int64_t step) const {
  if (recipe_.name == "plateau") return plateau_.learning_rate();
  const auto done = static_cast<double>(step);
  if (recipe_.name == "step") {
    double drops = 0.0;
    for (const double milestone : recipe_.milestones) drops += done >= to_steps(milestone) ? 1.0 : 0.0;
    if (recipe_.step_size > 0.0) drops += std::floor(done / to_steps(recipe_.step_size));
    return learning_rate_ * std::pow(recipe_.gamma, drops);
  }
  if (recipe_.name == "cosine") {
    if (done < warmup_steps_) return learning_rate_;
    const auto all = static_cast<double>(total_steps_);
    const double position =
        recipe_.per == "epoch" ? static_cast<double>(step / steps_per_epoch_ * steps_per_epoch_) : done;
    const double share = std::clamp((position - warmup_steps_) / (all - warmup_steps_), 0.0, 1.0);
    return recipe_.minimum +
           (learning_rate_ - recipe_.minimum) * 0.5 * (1.0 + std::cos(std::numbers::pi * share));
  }
  return learning_rate_;
}

void Schedule::end_epoch(const EpochReport& report) {
  if (recipe_.name != "plateau") return;
  std::optional<double> metric = report.train_loss;
  if (recipe_.metric == "validation_loss") metric = report.validation_loss;
  if (recipe_.metric == "validation_accuracy") metric = report.validation_accuracy;
  if (metric) plateau_.add(*metric);
}

nlohmann::json Schedule::state() const {
  if (recipe_.name != "plateau") return nlohmann::json::object();
  return {{"plateau", plateau_.state()}};
}

void Schedule::load_state(const nlohmann::json& state) {
  if (recipe_.name == "plateau") plateau_.load_state(state.at("plateau"));
}

}  // namespace bitdial::train
