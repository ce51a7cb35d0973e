// What concerns several keys of a recipe.
#include <algorithm>

#include "bitdial/core/error.h"
#include "bitdial/train/recipe.h"

namespace bitdial::train {

namespace {

void check_statistics(const AugmentationRecipe& augmentation) {
  const size_t channels = augmentation.mean.size();
  require(channels == augmentation.std.size(), "recipe",
          "augmentation.mean has {} values, augmentation.std has {}; give both or neither", channels,
          augmentation.std.size());
  require(channels == 0 || channels == 1 || channels == 3, "recipe",
          "augmentation.mean must have 1 or 3 values, got {}", channels);
  const bool custom =
      augmentation.crop_padding > 0 || augmentation.horizontal_flip || augmentation.random_resized_crop;
  require(!custom || augmentation.preset == "custom", "recipe",
          "augmentation.crop_padding, horizontal_flip and random_resized_crop need augmentation.preset = "
          "\"custom\", "
          "got \"{}\"",
          augmentation.preset);
}

void check_schedule(const Recipe& recipe) {
  const ScheduleRecipe& schedule = recipe.schedule;
  require(schedule.name != "step" || !schedule.milestones.empty() || schedule.step_size > 0.0, "recipe",
          "schedule.name = \"step\" needs schedule.milestones or schedule.step_size");
  require(std::is_sorted(schedule.milestones.begin(), schedule.milestones.end()), "recipe",
          "schedule.milestones must ascend");
  require(schedule.minimum <= recipe.optimizer.learning_rate, "recipe",
          "schedule.minimum = {} is above optimizer.learning_rate = {}", schedule.minimum,
          recipe.optimizer.learning_rate);
  require(schedule.unit != "epoch" || schedule.warmup < static_cast<double>(recipe.train.epochs), "recipe",
          "schedule.warmup = {} epochs leaves nothing of train.epochs = {}", schedule.warmup,
          recipe.train.epochs);
}

void check_data(const DataRecipe& data) {
  if (data.fold.empty()) return;
  parse_fold(data.fold);
  require(data.validation <= 0.0, "recipe", "give data.fold = \"{}\" or data.validation = {}, not both",
          data.fold, data.validation);
}

void check_model(const ModelRecipe& model) {
  require(model.range_norm_bits != 1, "recipe", "model.range_norm_bits must be 0 or 2 .. 16, got 1");
  const bool is_residual = model.name.starts_with("resnet") || model.name.starts_with("mobilenet");
  require(!model.zero_last_gamma || is_residual, "recipe",
          "model.zero_last_gamma is for residual networks, {} has no residual blocks", model.name);
  require(!model.auxiliary_heads || model.name == "googlenet-imagenet", "recipe",
          "model.auxiliary_heads is for googlenet-imagenet, {} has none", model.name);
}

}  // namespace

void check_recipe(const Recipe& recipe) {
  make_policy(recipe.precision);
  check_data(recipe.data);
  check_model(recipe.model);
  check_statistics(recipe.augmentation);
  check_schedule(recipe);
  require(recipe.train.micro_batches <= recipe.data.batch_size, "recipe",
          "train.micro_batches = {} is more than data.batch_size = {}", recipe.train.micro_batches,
          recipe.data.batch_size);
  const OptimizerRecipe& optimizer = recipe.optimizer;
  require(!optimizer.nesterov || (optimizer.momentum > 0.0 && optimizer.dampening == 0.0), "recipe",
          "optimizer.nesterov needs momentum above 0 and dampening = 0, got {} and {}", optimizer.momentum,
          optimizer.dampening);
}

}  // namespace bitdial::train
