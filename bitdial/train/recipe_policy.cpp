// From the table [precision] to a policy.
#include <fmt/format.h>

#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/policies/overrides.h"
#include "bitdial/policies/registry.h"
#include "bitdial/train/recipe.h"

namespace bitdial::train {
namespace {

// "policy", word lengths ("8", "8/8/16") or a policy's name.
void add_layer_rule(const std::string& rule, const char* layer, std::vector<policies::Override>& overrides) {
  if (rule == "policy") return;
  const bool is_bits = !rule.empty() && rule.find_first_not_of("0123456789/") == std::string::npos;
  const bool is_one = is_bits && rule.find('/') == std::string::npos;
  const std::string spec = is_one    ? fmt::format("static:{0}/{0}/{0}", rule)
                           : is_bits ? "static:" + rule
                                     : rule;
  overrides.push_back({{layer}, {}, policies::make(spec)});
}

}  // namespace

std::shared_ptr<Policy> make_policy(const PrecisionRecipe& recipe) {
  std::vector<policies::Override> overrides;
  for (const PrecisionOverride& one : recipe.overrides) {
    overrides.push_back({one.layers, one.tensors, policies::make(one.policy, one.options)});
  }
  add_layer_rule(recipe.first_layer, "@first", overrides);
  add_layer_rule(recipe.last_layer, "@last", overrides);
  if (recipe.gradient_policy.empty()) {
    require(recipe.gradient_options.empty(), "recipe", "precision.gradient_options needs a gradient_policy");
  } else {
    overrides.push_back(
        policies::gradient_override(policies::make(recipe.gradient_policy, recipe.gradient_options)));
  }
  return policies::with_overrides(policies::make(recipe.policy, recipe.options), std::move(overrides));
}

std::string describe_policy(const PrecisionRecipe& recipe) {
  const std::string gradient =
      recipe.gradient_policy.empty() ? "" : fmt::format(", gradients {}", recipe.gradient_policy);
  return recipe.policy + gradient;
}

}  // namespace bitdial::train
