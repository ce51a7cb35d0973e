#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bitdial/policies/registry.h"

namespace bitdial::policies {

/// Reads a policy's named options and remembers what was asked for, so that help and error messages cannot
/// disagree with the code. Every getter throws Error for a value of the wrong type or out of range.
class OptionReader {
 public:
  /// `options` must be an object (or null, the same as empty).
  OptionReader(std::string policy, nlohmann::json options);

  double number(const std::string& name, double fallback, double lower, double upper,
                const std::string& help);
  int integer(const std::string& name, int fallback, int lower, int upper, const std::string& help);
  /// A list of whole numbers; never empty.
  std::vector<int> integers(const std::string& name, const std::vector<int>& fallback, int lower, int upper,
                            const std::string& help);
  /// `allowed` describes the form that the caller checks: "MIN-MAX/GRADIENT".
  std::string text(const std::string& name, const std::string& fallback, const std::string& allowed,
                   const std::string& help);
  /// A table of whatever the caller checks; the default is an empty one.
  nlohmann::json object(const std::string& name, const std::string& help);
  bool flag(const std::string& name, bool fallback, const std::string& help);

  /// One of a list of words, each standing for a value of T.
  template <class T>
  T choice(const std::string& name, const std::string& fallback,
           const std::vector<std::pair<std::string, T>>& values, const std::string& help) {
    std::vector<std::string> words;
    for (const auto& [word, value] : values) words.push_back(word);
    const std::string chosen = word_of(name, fallback, words, help);
    for (const auto& [word, value] : values) {
      if (word == chosen) return value;
    }
    throw_unreachable(name);
  }

  /// A number, or one word that stands for "none of them".
  std::optional<double> number_or_word(const std::string& name, std::optional<double> fallback,
                                       const std::string& word, double lower, double upper,
                                       const std::string& help);

  /// Call last: throws for an option that no getter asked for, naming the nearest.
  void finish() const;

  const std::vector<OptionHelp>& described() const { return described_; }

  /// Every option with the value in force.
  const nlohmann::json& resolved() const { return resolved_; }

 private:
  const nlohmann::json* find(const std::string& name, const nlohmann::json& fallback, std::string allowed,
                             const std::string& help);
  std::string word_of(const std::string& name, const std::string& fallback,
                      const std::vector<std::string>& words, const std::string& help);
  [[noreturn]] void refuse(const std::string& name, const nlohmann::json& value) const;
  [[noreturn]] void throw_unreachable(const std::string& name) const;

  std::string policy_;
  nlohmann::json options_;
  nlohmann::json resolved_ = nlohmann::json::object();
  std::vector<OptionHelp> described_;
};

}  // namespace bitdial::policies
