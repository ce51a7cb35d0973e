#pragma once

#include <string>
#include <string_view>

#include "bitdial/train/recipe.h"

// Recipes come from files and command lines; comparisons of floats inside the parser are not ours to warn
// about.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#include <toml++/toml.h>
#pragma GCC diagnostic pop

/// From TOML to recipes; every error names source, line and column.
namespace bitdial::train {

/// Throws Error on bad syntax.
toml::table parse_toml(std::string_view text, const std::string& source);

/// Overwrites the keys that the table holds, keeps the others. Throws Error on a key that is unknown, has the
/// wrong type or a value out of its range.
void overlay(Recipe& recipe, const toml::table& table, const std::string& source);

}  // namespace bitdial::train
