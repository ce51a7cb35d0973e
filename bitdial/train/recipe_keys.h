#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bitdial/train/recipe.h"

/// The one table of all recipe keys: reading, writing, help and documentation walk through it.
namespace bitdial::train {

/// Inclusive limits of a number, except that `above_minimum` leaves the minimum itself out.
struct Limits {
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  bool above_minimum = false;

  bool contain(double value) const {
    return (above_minimum ? value > minimum : value >= minimum) && value <= maximum;
  }
};

/// ">= 1", "0 .. 1", "> 0"; empty when anything goes.
std::string to_string(const Limits& limits);

class KeyVisitor {
 public:
  virtual ~KeyVisitor() = default;
  /// Begins a table; its keys follow.
  virtual void section(const std::string& name, const std::string& help) = 0;
  /// `words`: what the text may be; empty: anything.
  virtual void key(const std::string& name, std::string& value, const std::vector<std::string>& words,
                   const std::string& help) = 0;
  virtual void key(const std::string& name, int64_t& value, const Limits& limits,
                   const std::string& help) = 0;
  virtual void key(const std::string& name, double& value, const Limits& limits, const std::string& help) = 0;
  virtual void key(const std::string& name, bool& value, const std::string& help) = 0;
  virtual void key(const std::string& name, std::vector<double>& value, const Limits& limits,
                   const std::string& help) = 0;
  /// A free table (options of a policy).
  virtual void key(const std::string& name, nlohmann::json& value, const std::string& help) = 0;
  virtual void key(const std::string& name, std::vector<PrecisionOverride>& value,
                   const std::string& help) = 0;
};

void visit_keys(Recipe& recipe, KeyVisitor& visitor);

}  // namespace bitdial::train
