#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace bitdial::cli {

/// A recipe by file, or by name ("cifar10-resnet20") from the recipes that come with the program: `recipes/`
/// in a folder above the executable (source tree) or `share/bitdial/recipes/` there (installed). Throws Error
/// that suggests the nearest name.
std::filesystem::path find_recipe(const std::string& file_or_name);

/// The names that find_recipe knows.
std::vector<std::string> recipe_names();

/// <folder>/<name>-<n> with the first n that is free; characters that do not belong into a file name become
/// "-".
std::filesystem::path free_run_directory(const std::filesystem::path& folder, std::string name);

}  // namespace bitdial::cli
