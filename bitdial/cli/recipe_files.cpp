#include "bitdial/cli/recipe_files.h"

#include <algorithm>
#include <string_view>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"

namespace bitdial::cli {

namespace fs = std::filesystem;

namespace {

constexpr const char* kExtension = ".toml";

/// Whether `folder` is the one that comes with the program, and not any folder of this name.
bool holds_recipes(const fs::path& folder) {
  std::error_code missing;
  const fs::directory_iterator entries(folder, missing);
  return std::any_of(begin(entries), end(entries),
                     [](const fs::directory_entry& entry) { return entry.path().extension() == kExtension; });
}

fs::path recipe_folder() {
  std::error_code unreadable;
  for (fs::path place = fs::read_symlink("/proc/self/exe", unreadable); place.has_relative_path();
       place = place.parent_path()) {
    for (const char* folder : {"recipes", "share/bitdial/recipes"}) {
      const fs::path candidate = place.parent_path() / folder;
      if (holds_recipes(candidate)) return candidate;
    }
  }
  return {};
}

}  // namespace

std::vector<std::string> recipe_names() {
  std::vector<std::string> names;
  const fs::path folder = recipe_folder();
  if (folder.empty()) return names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == kExtension) names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

fs::path find_recipe(const std::string& file_or_name) {
  if (fs::exists(file_or_name)) return file_or_name;
  const auto names = recipe_names();
  const std::string name = fs::path(file_or_name).stem().string();
  const bool is_name = file_or_name == name;
  if (is_name && std::find(names.begin(), names.end(), name) != names.end()) {
    return recipe_folder() / (name + kExtension);
  }
  fail("train", "no recipe \"{}\": neither a file nor a recipe of the program{}", file_or_name,
       suggestion(name, names));
}

fs::path free_run_directory(const fs::path& folder, std::string name) {
  constexpr std::string_view kUnwelcome = ":/ ";
  for (char& c : name) {
    if (kUnwelcome.find(c) != std::string_view::npos) c = '-';
  }
  for (int n = 1;; ++n) {
    fs::path path = folder / fmt::format("{}-{}", name, n);
    if (!fs::exists(path)) return path;
  }
}

}  // namespace bitdial::cli
