#include "bitdial/train/trainer.h"

#include "bitdial/core/error.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/training_run.h"

namespace bitdial::train {

TrainSummary train(const Recipe& recipe, const std::filesystem::path& directory,
                   const TrainOptions& options) {
  check_recipe(recipe);
  configure_threads(recipe.train.threads);
  const bool is_new = !std::filesystem::exists(directory);
  std::optional<TrainingRun> training;
  try {
    training.emplace(recipe, RunDirectory::create(directory, recipe), options);
    training->start_from_init();
  } catch (...) {
    // No data, wrong weights, interrupted: nothing is left that was not there before.
    training.reset();
    std::error_code ignored;
    if (is_new) std::filesystem::remove_all(directory, ignored);
    throw;
  }
  return training->run();
}

TrainSummary resume(const std::filesystem::path& directory, const TrainOptions& options,
                    std::optional<int64_t> epochs) {
  RunDirectory run = RunDirectory::open(directory);
  Recipe recipe = load_recipe(run.recipe_file());
  configure_threads(recipe.train.threads);
  const Checkpoint checkpoint = read_checkpoint(find_checkpoint(directory, /*best=*/false));
  if (epochs) {
    require(*epochs > checkpoint.progress.epoch, "train",
            "{} has trained {} epochs; to go on, ask for more than that in all, not for {}",
            directory.string(), checkpoint.progress.epoch, *epochs);
    require(recipe.train.steps == 0 || checkpoint.progress.step < recipe.train.steps, "train",
            "{} has trained all of its train.steps = {}; more epochs would not add to them",
            directory.string(), recipe.train.steps);
    recipe.train.epochs = *epochs;
    check_recipe(recipe);
    run.replace_recipe(recipe);
  }
  TrainingRun training(recipe, std::move(run), options, /*resumes=*/true);
  training.restore(checkpoint);
  return training.run();
}

}  // namespace bitdial::train
