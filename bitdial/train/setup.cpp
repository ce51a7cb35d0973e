#include "bitdial/train/setup.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/data/subset.h"

namespace bitdial::train {

namespace {

/// The recipe's list overrides the data set's statistics; one number serves images of one channel.
void override_statistics(const std::vector<double>& from, std::array<float, 3>& to, const char* key) {
  if (from.empty()) return;
  require(from.size() == 1 || from.size() == 3, "recipe", "augmentation.{} has {} numbers, expected 1 or 3",
          key, from.size());
  for (size_t c = 0; c < to.size(); ++c) to[c] = static_cast<float>(from[std::min(c, from.size() - 1)]);
}

std::shared_ptr<const data::Dataset> open_whole(const Recipe& recipe, data::Split split) {
  data::DatasetOptions options;
  options.image_size = recipe.data.image_size;
  options.train_images = recipe.data.train_images;
  options.test_images = recipe.data.test_images;
  options.seed = static_cast<uint64_t>(recipe.data.generator_seed);
  auto dataset = data::open_dataset(recipe.data.name, recipe.data.directory, split, options);
  const int64_t wanted = split == data::Split::kTrain ? recipe.data.train_images : recipe.data.test_images;
  if (wanted == 0 || wanted >= dataset->size()) return dataset;
  std::vector<int64_t> first(static_cast<size_t>(wanted));
  std::iota(first.begin(), first.end(), 0);
  return std::make_shared<data::Subset>(std::move(dataset), std::move(first));
}

// Indices of what is trained on and of what is held out.
std::pair<std::vector<int64_t>, std::vector<int64_t>> split_indices(const data::Dataset& dataset,
                                                                    const DataRecipe& recipe) {
  const auto seed = static_cast<uint64_t>(recipe.split_seed);
  if (recipe.fold.empty()) return data::stratified_split(dataset, recipe.validation, seed);
  const Fold fold = parse_fold(recipe.fold);
  auto folds = data::stratified_folds(dataset, static_cast<int>(fold.count), seed);
  std::pair<std::vector<int64_t>, std::vector<int64_t>> split;
  for (size_t i = 0; i < folds.size(); ++i) {
    auto& part = i + 1 == static_cast<size_t>(fold.number) ? split.second : split.first;
    part.insert(part.end(), folds[i].begin(), folds[i].end());
  }
  std::ranges::sort(split.first);
  return split;
}

}  // namespace

TrainingImages open_training(const Recipe& recipe) {
  auto all = open_whole(recipe, data::Split::kTrain);
  if (recipe.data.validation <= 0.0 && recipe.data.fold.empty()) return {std::move(all), nullptr};
  auto [kept, held_out] = split_indices(*all, recipe.data);
  require(!kept.empty() && !held_out.empty(), "train",
          "of {} training images {} would be trained on and {} held out", all->size(), kept.size(),
          held_out.size());
  return {std::make_shared<data::Subset>(all, std::move(kept)),
          std::make_shared<data::Subset>(all, std::move(held_out))};
}

std::shared_ptr<const data::Dataset> open_split(const Recipe& recipe, data::Split split) {
  return split == data::Split::kTrain ? open_training(recipe).train : open_whole(recipe, split);
}

data::Augmentation augmentation_for(const Recipe& recipe, data::Split split) {
  const AugmentationRecipe& wanted = recipe.augmentation;
  data::Augmentation augmentation = data::default_augmentation(recipe.data.name, split);
  if (wanted.preset != "auto") {
    const bool custom = wanted.preset == "custom" && split == data::Split::kTrain;
    augmentation.crop_padding = custom ? static_cast<int>(wanted.crop_padding) : 0;
    augmentation.horizontal_flip = custom && wanted.horizontal_flip;
    augmentation.random_resized_crop = custom && wanted.random_resized_crop;
  }
  override_statistics(wanted.mean, augmentation.statistics.mean, "mean");
  override_statistics(wanted.std, augmentation.statistics.deviation, "std");
  return augmentation;
}

data::LoaderOptions loader_options(const Recipe& recipe, data::Split split) {
  const bool training = split == data::Split::kTrain;
  data::LoaderOptions options;
  options.batch_size = training ? recipe.data.batch_size : recipe.data.evaluation_batch_size;
  options.shuffle = training && recipe.data.shuffle;
  options.drop_last = training && recipe.data.drop_last;
  options.seed = static_cast<uint64_t>(recipe.train.seed);
  options.workers = static_cast<int>(recipe.data.workers);
  options.prefetch = static_cast<int>(recipe.data.prefetch);
  options.augmentation = augmentation_for(recipe, split);
  return options;
}

models::Options model_options(const Recipe& recipe, const data::Dataset& dataset, const Policy& policy) {
  const data::ImageShape shape = dataset.shape();
  require(shape.height == shape.width, "train", "networks take square images, {} gives {}x{}",
          recipe.data.name, shape.height, shape.width);
  models::Options options;
  options.classes = dataset.classes();
  options.in_channels = shape.channels;
  options.image_size = shape.height;
  options.normalization = policy.normalization();
  if (recipe.model.normalization == "batch") options.normalization = Normalization::kBatch;
  if (recipe.model.normalization == "range") options.normalization = Normalization::kRange;
  options.range_norm_bits = static_cast<int>(recipe.model.range_norm_bits);
  options.zero_last_gamma = recipe.model.zero_last_gamma;
  options.auxiliary_heads = recipe.model.auxiliary_heads;
  options.initializer = policy.initializer();
  if (recipe.model.initializer == "published") options.initializer = Initializer::kPublished;
  if (recipe.model.initializer == "tnvs") options.initializer = Initializer::kTruncatedNormal;
  options.initializer_scale = recipe.model.initializer_scale;
  options.linear_std = recipe.model.linear_std;
  options.gate = policy.gate();
  return options;
}

nn::SessionOptions session_options(const Recipe& recipe) {
  nn::SessionOptions options;
  const bool integer = recipe.precision.arithmetic == "integer";
  options.arithmetic = integer ? nn::Arithmetic::kInteger : nn::Arithmetic::kSimulated;
  if (recipe.precision.reduced_axis == "requantise") options.reduced_axis = nn::ReducedAxis::kRequantise;
  if (recipe.precision.reduced_axis == "float") options.reduced_axis = nn::ReducedAxis::kFloat;
  options.fused = recipe.precision.fused;
  if (recipe.precision.between == "float32") options.between = Between::kFloat32;
  if (recipe.precision.between == "bfloat16") options.between = Between::kBFloat16;
  options.previous_momentum = recipe.precision.previous_momentum;
  options.saturation_limit = recipe.precision.saturation_limit;
  options.seed = static_cast<uint64_t>(recipe.train.seed);
  return options;
}

void configure_threads(int64_t threads) {
  if (threads > 0) {
    at::set_num_threads(static_cast<int>(threads));
    set_num_threads(static_cast<int>(threads));
  }
  at::globalContext().setFlushDenormal(true);
  // The setting belongs to a thread: one range for each of the pool.
  parallel_for(num_threads(), 1, [](int64_t, int64_t) { at::globalContext().setFlushDenormal(true); });
}

}  // namespace bitdial::train
