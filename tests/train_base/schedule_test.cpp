#include "bitdial/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "bitdial/core/error.h"

namespace bitdial::train {
namespace {

ScheduleRecipe named(const std::string& name) {
  ScheduleRecipe recipe;
  recipe.name = name;
  return recipe;
}

TEST(Schedule, Constant) {
  const Schedule schedule(named("constant"), 0.3, 10, 100);
  for (const int64_t step : {0, 1, 99, 1000}) EXPECT_EQ(schedule.learning_rate(step), 0.3);
}

// torch.optim.lr_scheduler.MultiStepLR(milestones=[30, 60, 80], gamma=0.1), stepped once per epoch.
TEST(Schedule, Milestones) {
  ScheduleRecipe recipe = named("step");
  recipe.milestones = {30, 60, 80};
  const Schedule schedule(recipe, 0.1, 7, 90 * 7);
  for (int64_t epoch = 0; epoch < 90; ++epoch) {
    const double expected = epoch < 30 ? 0.1 : epoch < 60 ? 0.01 : epoch < 80 ? 1e-3 : 1e-4;
    EXPECT_DOUBLE_EQ(schedule.learning_rate(epoch * 7), expected);
    EXPECT_DOUBLE_EQ(schedule.learning_rate(epoch * 7 + 6), expected);
  }
  // In steps: 32000 and 48000 of 64000.
  recipe.unit = "step";
  recipe.milestones = {32000, 48000};
  const Schedule steps(recipe, 0.1, 391, 64000);
  EXPECT_DOUBLE_EQ(steps.learning_rate(31999), 0.1);
  EXPECT_DOUBLE_EQ(steps.learning_rate(32000), 0.01);
  EXPECT_DOUBLE_EQ(steps.learning_rate(47999), 0.01);
  EXPECT_DOUBLE_EQ(steps.learning_rate(48000), 0.001);
}

// StepLR(step_size=30, gamma=0.1): base * gamma^(epoch // 30).
TEST(Schedule, EverySoOften) {
  ScheduleRecipe recipe = named("step");
  recipe.step_size = 30;
  const Schedule schedule(recipe, 0.1, 5, 450);
  for (int64_t epoch = 0; epoch < 90; ++epoch) {
    EXPECT_DOUBLE_EQ(schedule.learning_rate(epoch * 5 + 4),
                     0.1 * std::pow(0.1, static_cast<double>(epoch / 30)));
  }
}

// CosineAnnealingLR: eta_min + (base - eta_min) * (1 + cos(pi t / T_max)) / 2.
TEST(Schedule, Cosine) {
  ScheduleRecipe recipe = named("cosine");
  recipe.minimum = 0.001;
  const auto expected = [](double t, double T) {
    return 0.001 + (0.1 - 0.001) * (1 + std::cos(std::numbers::pi * t / T)) / 2;
  };
  const Schedule by_step(recipe, 0.1, 10, 200);
  for (int64_t step = 0; step < 200; ++step) {
    EXPECT_NEAR(by_step.learning_rate(step), expected(static_cast<double>(step), 200), 1e-15);
  }
  EXPECT_NEAR(by_step.learning_rate(200), 0.001, 1e-15);
  EXPECT_NEAR(by_step.learning_rate(500), 0.001, 1e-15) << "no second wave";
  recipe.per = "epoch";
  const Schedule by_epoch(recipe, 0.1, 10, 200);
  for (int64_t step = 0; step < 200; ++step) {
    EXPECT_NEAR(by_epoch.learning_rate(step), expected(static_cast<double>(step / 10), 20), 1e-15);
  }
}

// LinearLR(start_factor, total_iters): base * (f + (1 - f) * t / T) until t = T.
TEST(Schedule, WarmUp) {
  ScheduleRecipe recipe = named("constant");
  recipe.unit = "step";
  recipe.warmup = 4;
  recipe.warmup_factor = 0.2;
  const Schedule constant(recipe, 1.0, 10, 100);
  const std::vector<double> expected{0.2, 0.4, 0.6, 0.8, 1.0, 1.0};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(constant.learning_rate(static_cast<int64_t>(i)), expected[i], 1e-15);
  }
  recipe.name = "cosine";
  const Schedule cosine(recipe, 1.0, 10, 104);
  EXPECT_NEAR(cosine.learning_rate(3), 0.8, 1e-15);
  EXPECT_NEAR(cosine.learning_rate(4), 1.0, 1e-15);
  EXPECT_NEAR(cosine.learning_rate(54), 0.5, 1e-15) << "half of what warm-up left";
  recipe.unit = "epoch";
  recipe.warmup = 0.5;
  const Schedule half_epoch(recipe, 1.0, 10, 100);
  EXPECT_NEAR(half_epoch.learning_rate(0), 0.2, 1e-15);
  EXPECT_NEAR(half_epoch.learning_rate(5), 1.0, 1e-15);
  recipe.warmup = 10;
  EXPECT_THROW(Schedule(recipe, 1.0, 10, 100), Error);
}

EpochReport epoch_with(double validation_loss, double accuracy = 0.0) {
  EpochReport report;
  report.train_loss = 100.0;
  report.validation_loss = validation_loss;
  report.validation_accuracy = accuracy;
  return report;
}

std::vector<double> rates_after(Schedule& schedule, const std::vector<double>& losses) {
  std::vector<double> rates;
  for (const double loss : losses) {
    schedule.end_epoch(epoch_with(loss, -loss));
    rates.push_back(schedule.learning_rate(0));
  }
  return rates;
}

// The values that torch.optim.lr_scheduler.ReduceLROnPlateau gives for these losses (PyTorch 2.13).
TEST(Schedule, Plateau) {
  ScheduleRecipe recipe = named("plateau");
  recipe.patience = 1;
  recipe.threshold = 0.1;
  recipe.minimum = 0.02;
  const std::vector<double> losses{1.0, 0.95, 0.91, 0.89, 0.85, 0.84, 0.5, 0.5, 0.5, 0.5, 0.5};
  Schedule relative(recipe, 1.0, 10, 100);
  // 0.95 and 0.91 are not below 0.9 * 1.0; 0.89 is.
  EXPECT_EQ(rates_after(relative, losses),
            (std::vector<double>{1.0, 1.0, 0.1, 0.1, 0.1, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02}));

  recipe.threshold_mode = "absolute";
  recipe.factor = 0.5;
  recipe.minimum = 0.0;
  recipe.cooldown = 2;
  Schedule absolute(recipe, 1.0, 10, 100);
  EXPECT_EQ(rates_after(absolute, losses),
            (std::vector<double>{1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25}));

  recipe.metric = "validation_accuracy";
  Schedule accuracy(recipe, 1.0, 10, 100);
  EXPECT_EQ(rates_after(accuracy, losses),
            (std::vector<double>{1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25}))
      << "the mirror image";

  // Epochs without evaluation are not counted.
  Schedule skipping(recipe, 1.0, 10, 100);
  for (int i = 0; i < 10; ++i) skipping.end_epoch(EpochReport{});
  EXPECT_EQ(skipping.learning_rate(0), 1.0);
}

TEST(Schedule, StateIsRestored) {
  ScheduleRecipe recipe = named("plateau");
  recipe.patience = 2;
  recipe.cooldown = 1;
  const std::vector<double> losses{1.0, 1.1, 0.9, 0.95, 0.95, 0.95, 0.95, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4};
  Schedule whole(recipe, 0.1, 10, 130);
  const std::vector<double> expected = rates_after(whole, losses);
  EXPECT_LT(expected.back(), 0.1);
  for (size_t cut = 0; cut <= losses.size(); ++cut) {
    const auto middle = losses.begin() + static_cast<std::ptrdiff_t>(cut);
    Schedule first(recipe, 0.1, 10, 130);
    rates_after(first, {losses.begin(), middle});
    Schedule second(recipe, 0.1, 10, 130);
    second.load_state(nlohmann::json::parse(first.state().dump()));
    const std::vector<double> rest = rates_after(second, {middle, losses.end()});
    EXPECT_TRUE(std::equal(rest.begin(), rest.end(), expected.begin() + static_cast<std::ptrdiff_t>(cut)))
        << cut;
  }
}

}  // namespace
}  // namespace bitdial::train
