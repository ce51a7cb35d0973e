// "--set table.key=value".
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/train/recipe_reader.h"

namespace bitdial::train {

namespace {

// Whether the key of a "--set" holds text, so that its value needs no quotes.
bool is_text_key(const std::string& key) {
  const std::vector<RecipeKey> keys = recipe_keys();
  return std::any_of(keys.begin(), keys.end(),
                     [&](const RecipeKey& known) { return known.key == key && known.type == "text"; });
}

std::string trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

// The value of a "--set" as a table with the one key `value`.
toml::table parse_value(const std::string& key, const std::string& text) {
  const bool quoted = text.size() >= 2 && (text.front() == '"' || text.front() == '\'');
  if (!is_text_key(key) || quoted) {
    try {
      toml::table table = toml::parse("value = " + text);
      if (table.size() == 1) return table;  // a line break in the text may begin another key
    } catch (const toml::parse_error&) {    // a word without quotes
    }
  }
  toml::table table;
  table.insert("value", text);
  return table;
}

// What the recipe's policy is compared with: nothing of the network may stay quantised.
bool is_baseline(const std::string& policy) { return policy == "float32" || policy == "bf16"; }

void check_policy_change(Recipe& recipe, const std::string& key, const toml::table& value) {
  PrecisionRecipe& precision = recipe.precision;
  const bool is_gradient = key == "precision.gradient_policy";
  if (!is_gradient && key != "precision.policy") return;
  const auto spec = value["value"].value<std::string>();
  const std::string& old = is_gradient ? precision.gradient_policy : precision.policy;
  if (!spec || spec->substr(0, spec->find(':')) == old.substr(0, old.find(':'))) return;
  (is_gradient ? precision.gradient_options : precision.options) = nlohmann::json::object();
  if (!is_gradient && is_baseline(*spec)) {
    const PrecisionRecipe defaults;
    precision.gradient_policy = defaults.gradient_policy;
    precision.gradient_options = defaults.gradient_options;
    precision.first_layer = defaults.first_layer;
    precision.last_layer = defaults.last_layer;
    precision.overrides.clear();
  }
}

}  // namespace

void set_recipe_value(Recipe& recipe, std::string_view assignment) {
  const size_t equals = assignment.find('=');
  require(equals != std::string_view::npos, "recipe", "--set takes table.key=value, got \"{}\"", assignment);
  const std::string key = trimmed(assignment.substr(0, equals));
  const size_t dot = key.find('.');
  require(dot != std::string::npos && dot > 0 && key.back() != '.', "recipe",
          "--set takes table.key=value, as \"train.epochs=3\", got \"{}\"", assignment);
  toml::table value = parse_value(key, trimmed(assignment.substr(equals + 1)));
  // Builds the nested tables from the inside: precision.options.alpha is {precision = {options = {alpha =
  // v}}}.
  std::vector<std::string> names;
  for (size_t begin = 0; begin <= key.size();) {
    const size_t end = std::min(key.find('.', begin), key.size());
    names.push_back(key.substr(begin, end - begin));
    begin = end + 1;
  }
  toml::table inner;
  inner.insert(names.back(), *value.get("value"));
  for (size_t i = names.size() - 1; i-- > 0;) {
    toml::table outer;
    outer.insert(names[i], std::move(inner));
    inner = std::move(outer);
  }
  Recipe changed = recipe;
  check_policy_change(changed, key, value);
  overlay(changed, inner, "--set");
  recipe = std::move(changed);
}

}  // namespace bitdial::train
