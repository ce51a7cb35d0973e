#include "bitdial/train/reproduce_training.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"

namespace bitdial::train {
namespace {

constexpr int64_t kSteps = 391;  // CIFAR in batches of 128

Recipe published(const std::string& policy) {
  Recipe recipe;
  recipe.train.epochs = 164;
  recipe.train.steps = 64000;
  recipe.schedule.name = "step";
  recipe.schedule.unit = "step";
  recipe.schedule.milestones = {32000, 48000};
  set_recipe_value(recipe, "precision.policy=" + policy);
  return recipe;
}

std::string scaled(const std::vector<ScaledConstant>& changes, const std::string& key) {
  const auto found = std::find_if(changes.begin(), changes.end(),
                                  [&](const ScaledConstant& change) { return change.key == key; });
  return found == changes.end() ? "" : found->scaled;
}

TEST(ScaleRecipe, WhatCountsStepsShrinksWithTheRun) {
  Recipe recipe = published("pfq");
  const auto changes = scale_recipe(recipe, 10, kSteps);
  EXPECT_EQ(recipe.train.epochs, 10);
  EXPECT_EQ(recipe.train.steps, 0);
  EXPECT_EQ(recipe.schedule.milestones, (std::vector<double>{1955, 2933}));  // 3910 / 64000 of them
  EXPECT_EQ(recipe.precision.options.at("eval_every"), 24);
  EXPECT_EQ(scaled(changes, "schedule.milestones"), "1955 2933");
  EXPECT_EQ(scaled(changes, "precision.options.eval_every"), "24");
  EXPECT_EQ(scaled(changes, "precision.options.lr_beta"), "");
}

TEST(ScaleRecipe, ShortRunsOfLdpLearnBitsFaster) {
  Recipe recipe = published("ldp");
  EXPECT_EQ(scaled(scale_recipe(recipe, 10, kSteps), "precision.options.lr_beta"), "1");
  recipe = published("ldp");
  EXPECT_EQ(scaled(scale_recipe(recipe, 20, kSteps), "precision.options.lr_beta"), "");
}

TEST(ScaleRecipe, ARunOfFullLengthStaysAsPublished) {
  Recipe recipe = published("cpt");
  const Recipe before = recipe;
  EXPECT_TRUE(scale_recipe(recipe, 164, kSteps).empty());
  EXPECT_EQ(recipe, before);
  EXPECT_THROW(scale_recipe(recipe, 0, kSteps), Error);
}

TEST(TrainedRow, AccuraciesAreReportedWithoutAVerdict) {
  TrainedRow row;
  row.best = {70.0, 71.0};
  row.last = {69.0, 69.5};
  const auto json = to_json("cpt-cifar", {"ResNet-38 8/8", "r", {}, 69.8}, row, 12);
  EXPECT_EQ(json.at("name"), "cpt-cifar: ResNet-38 8/8, accuracy %");
  EXPECT_DOUBLE_EQ(json.at("ours").get<double>(), 70.5);
  EXPECT_NEAR(json.at("difference").get<double>(), 0.7, 1e-9);
  EXPECT_TRUE(json.at("tolerance").is_null());
  EXPECT_EQ(json.at("seeds"), 2);
}

}  // namespace
}  // namespace bitdial::train
