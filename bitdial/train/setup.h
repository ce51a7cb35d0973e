#pragma once

#include <memory>

#include "bitdial/data/augmentation.h"
#include "bitdial/data/dataset.h"
#include "bitdial/data/loader.h"
#include "bitdial/models/zoo.h"
#include "bitdial/nn/session.h"
#include "bitdial/train/recipe.h"

/// From a recipe to the parts of a run.
namespace bitdial::train {

/// What the recipe's training images are used for.
struct TrainingImages {
  std::shared_ptr<const data::Dataset> train;
  std::shared_ptr<const data::Dataset> validation;  ///< held out (data.validation, data.fold); null: nothing
};

/// The training images, cut to data.train_images, then split.
TrainingImages open_training(const Recipe& recipe);

/// One split of the recipe's data set, cut to its train_images or test_images. Of the training images what is
/// trained on, without those held out.
std::shared_ptr<const data::Dataset> open_split(const Recipe& recipe, data::Split split);

/// Preset, mean and deviation as the recipe says.
data::Augmentation augmentation_for(const Recipe& recipe, data::Split split);

/// Shuffled and augmented for training; in order, plain and whole for testing.
data::LoaderOptions loader_options(const Recipe& recipe, data::Split split);

/// The network that fits the data set and the policy.
models::Options model_options(const Recipe& recipe, const data::Dataset& dataset, const Policy& policy);

nn::SessionOptions session_options(const Recipe& recipe);

/// Threads of the kernels and of LibTorch (0: as many as the process may use), and denormals flushed to zero
/// in LibTorch's float arithmetic on all of them; bitdial's kernels keep IEEE arithmetic.
void configure_threads(int64_t threads);

}  // namespace bitdial::train
