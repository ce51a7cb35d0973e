#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "bitdial/core/policy.h"

/// Precision policies by name. A new policy is one file and one line of the table in registry.cpp.
namespace bitdial::policies {

/// A policy from "NAME" or "NAME:ARGUMENT" ("apt", "static:8/8/16") and named options ({"alpha": 0.04}).
/// Throws Error on an unknown name, an unknown option (naming the nearest) and a value out of its range.
std::shared_ptr<Policy> make(std::string_view spec, const nlohmann::json& options = nlohmann::json::object());

/// Every registered name, in the order of the table.
std::vector<std::string> names();

/// One line: what the policy does and whose it is.
std::string help(std::string_view name);

struct OptionHelp {
  std::string name;
  std::string default_value;
  std::string allowed;  ///< "0 < x < 0.4", "ceil | vendor", "true | false"
  std::string text;
};

/// Every option that `make(name, ...)` accepts.
std::vector<OptionHelp> options(std::string_view name);

}  // namespace bitdial::policies
