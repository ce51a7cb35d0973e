#include "bitdial/train/recipe.h"

#include <algorithm>
#include <charconv>
#include <cstddef>

#include "bitdial/core/atomic_file.h"
#include "bitdial/core/error.h"
#include "bitdial/train/recipe_reader.h"

namespace bitdial::train {

int64_t total_steps(const TrainRecipe& train, int64_t steps_per_epoch) {
  const int64_t steps = steps_per_epoch * train.epochs;
  return train.steps > 0 ? std::min(steps, train.steps) : steps;
}

Fold parse_fold(std::string_view text) {
  Fold fold;
  const size_t slash = std::min(text.find('/'), text.size());
  const auto reads = [](std::string_view digits, int64_t& number) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  const bool is_fold = slash < text.size() && reads(text.substr(0, slash), fold.number) &&
                       reads(text.substr(slash + 1), fold.count) && fold.number >= 1 &&
                       fold.number <= fold.count && fold.count >= 2 && fold.count <= 1'000'000;
  require(is_fold, "recipe", "a fold is k/K with 1 <= k <= K and K >= 2, as \"3/10\", got \"{}\"", text);
  return fold;
}

Recipe parse_recipe(std::string_view text, const std::string& source) {
  const toml::table table = parse_toml(text, source);
  Recipe recipe;
  overlay(recipe, table, source);
  return recipe;
}

Recipe load_recipe(const std::filesystem::path& file) {
  require(!std::filesystem::is_directory(file), "recipe", "{} is a folder, not a recipe", file.string());
  const std::vector<std::byte> bytes = read_bytes(file);
  return parse_recipe({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, file.string());
}

}  // namespace bitdial::train
