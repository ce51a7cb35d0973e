#include "bitdial/train/setup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "bitdial/core/error.h"
#include "bitdial/models/zoo.h"
#include "bitdial/policies/overrides.h"
#include "bitdial/policies/registry.h"

namespace bitdial::train {
namespace {

Recipe shapes(int64_t images) {
  Recipe recipe;
  recipe.data.name = "shapes";
  recipe.data.train_images = images;
  recipe.data.image_size = 16;
  return recipe;
}

// Images as bytes: shapes has no two alike.
std::set<std::string> images_of(const data::Dataset& dataset) {
  std::set<std::string> images;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    std::vector<uint8_t> image(static_cast<size_t>(dataset.shape().elements()));
    dataset.read(i, image.data());
    images.emplace(image.begin(), image.end());
  }
  return images;
}

std::map<int, int> class_counts_of(const data::Dataset& dataset) {
  std::map<int, int> counts;
  for (int64_t i = 0; i < dataset.size(); ++i) ++counts[dataset.label(i)];
  return counts;
}

TEST(TrainingImages, AreAllTrainedOnUnlessARecipeHoldsSomeOut) {
  const TrainingImages all = open_training(shapes(60));
  EXPECT_EQ(all.train->size(), 60);
  EXPECT_EQ(all.validation, nullptr);
}

TEST(TrainingImages, AreHeldOutByClass) {
  Recipe recipe = shapes(200);
  recipe.data.validation = 0.1;
  const TrainingImages parts = open_training(recipe);
  EXPECT_EQ(images_of(*parts.train).size() + images_of(*parts.validation).size(), 200U);
  auto both = images_of(*parts.train);
  both.merge(images_of(*parts.validation));
  EXPECT_EQ(both, images_of(*open_training(shapes(200)).train));
  const auto all = class_counts_of(*open_training(shapes(200)).train);
  for (const auto& [label, count] : class_counts_of(*parts.validation)) {
    EXPECT_EQ(count, std::lround(0.1 * all.at(label))) << label;
  }

  EXPECT_EQ(images_of(*open_split(recipe, data::Split::kTrain)), images_of(*parts.train));
  recipe.train.seed = 7;
  EXPECT_EQ(images_of(*open_training(recipe).validation), images_of(*parts.validation));
  recipe.data.split_seed = 7;
  EXPECT_NE(images_of(*open_training(recipe).validation), images_of(*parts.validation));
}

TEST(TrainingImages, FoldsHoldOutEveryImageOnce) {
  Recipe recipe = shapes(103);
  std::multiset<std::string> held_out;
  for (const char* fold : {"1/4", "2/4", "3/4", "4/4"}) {
    recipe.data.fold = fold;
    const TrainingImages parts = open_training(recipe);
    EXPECT_EQ(parts.train->size() + parts.validation->size(), 103);
    EXPECT_NEAR(static_cast<double>(parts.validation->size()), 103 / 4.0, 1.0);
    for (const auto& image : images_of(*parts.validation)) held_out.insert(image);
  }
  const auto all = images_of(*open_training(shapes(103)).train);
  EXPECT_EQ(held_out, std::multiset<std::string>(all.begin(), all.end()));
}

TEST(TrainingImages, RefusesAShareThatLeavesNothingOut) {
  Recipe recipe = shapes(20);
  recipe.data.validation = 0.01;
  EXPECT_THROW(open_training(recipe), Error);
}

TEST(ModelOptions, TakeTheInitialiserOfThePolicyUnlessTheRecipeNamesOne) {
  struct Truncating : Policy {
    std::string name() const override { return "truncating"; }
    TensorPlan plan(TensorId, const StepInfo&, TensorProbe&) override { return {}; }
    Format evaluation_format(TensorId) const override { return {}; }
    Initializer initializer() const override { return Initializer::kTruncatedNormal; }
  };
  Recipe recipe = shapes(20);
  recipe.model.initializer_scale = 2.0;
  const auto images = open_training(recipe).train;
  const auto options = [&](const Policy& policy) { return model_options(recipe, *images, policy); };
  const auto other = policies::make("static");
  std::vector<policies::Override> overrides(1);
  overrides[0].policy = other;
  const auto composed = policies::with_overrides(std::make_shared<Truncating>(), overrides);
  EXPECT_EQ(options(Truncating()).initializer, Initializer::kTruncatedNormal);
  EXPECT_EQ(options(Truncating()).initializer_scale, 2.0);
  EXPECT_EQ(options(*composed).initializer, Initializer::kTruncatedNormal);
  EXPECT_EQ(options(*other).initializer, Initializer::kPublished);
  recipe.model.initializer = "published";
  EXPECT_EQ(options(Truncating()).initializer, Initializer::kPublished);
  recipe.model.initializer = "tnvs";
  EXPECT_EQ(options(*other).initializer, Initializer::kTruncatedNormal);
}

// Every recipe that ships with the program names a network of the zoo, and its float32 baseline is one
// command away: the same recipe without anything quantised.
TEST(ShippedRecipes, NameNetworksAndHaveABaseline) {
  for (const auto& entry : std::filesystem::directory_iterator(BITDIAL_SOURCE_DIR "/recipes")) {
    if (entry.path().extension() != ".toml") continue;
    SCOPED_TRACE(entry.path().string());
    const Recipe recipe = load_recipe(entry.path());
    EXPECT_NE(std::ranges::find(models::names(), recipe.model.name), models::names().end());
    Recipe baseline = recipe;
    set_recipe_value(baseline, "precision.policy=float32");
    EXPECT_NO_THROW(check_recipe(baseline));
    EXPECT_FALSE(make_policy(baseline.precision)->quantizes());
    baseline.precision = recipe.precision;
    EXPECT_EQ(baseline, recipe);
  }
}

}  // namespace
}  // namespace bitdial::train
