#include <gtest/gtest.h>

#include "bitdial/cli/recipe_files.h"
#include "bitdial/train/reproduce.h"
#include "bitdial/train/reproduce_training.h"

namespace bitdial::cli {
namespace {

TEST(ReproduceRecipes, EveryRowHasARecipeOfTheProgram) {
  int rows = 0;
  for (const train::ReproducedGroup& group : train::reproduced_groups()) {
    for (const train::ReproducedTraining& training : train::reproduced_trainings(group.name)) {
      SCOPED_TRACE(training.name);
      train::Recipe recipe = train::load_recipe(find_recipe(training.recipe));
      for (const std::string& setting : training.settings) train::set_recipe_value(recipe, setting);
      EXPECT_NO_THROW(train::check_recipe(recipe));
      EXPECT_GT(training.accuracy, 50.0);
      ++rows;
    }
  }
  EXPECT_GT(rows, 40);
}

}  // namespace
}  // namespace bitdial::cli
