#include "bitdial/policies/options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"

namespace bitdial::policies {

OptionReader::OptionReader(std::string policy, nlohmann::json options)
    : policy_(std::move(policy)), options_(std::move(options)) {
  if (options_.is_null()) options_ = nlohmann::json::object();
  require(options_.is_object(), "policies", "options of \"{}\" must be a table of names and values, got {}",
          policy_, options_.dump());
}

double OptionReader::number(const std::string& name, double fallback, double lower, double upper,
                            const std::string& help) {
  const nlohmann::json* value = find(name, fallback, fmt::format("{} .. {}", lower, upper), help);
  if (!value) return fallback;
  if (!value->is_number()) refuse(name, *value);
  const double number = value->get<double>();
  if (!(number >= lower && number <= upper)) refuse(name, *value);
  return number;
}

int OptionReader::integer(const std::string& name, int fallback, int lower, int upper,
                          const std::string& help) {
  const nlohmann::json* value = find(name, fallback, fmt::format("{} .. {}", lower, upper), help);
  if (!value) return fallback;
  if (!value->is_number_integer()) refuse(name, *value);
  const auto number = value->get<int64_t>();
  if (number < lower || number > upper) refuse(name, *value);
  return static_cast<int>(number);
}

std::vector<int> OptionReader::integers(const std::string& name, const std::vector<int>& fallback, int lower,
                                        int upper, const std::string& help) {
  const nlohmann::json* value = find(name, fallback, fmt::format("list of {} .. {}", lower, upper), help);
  if (!value) return fallback;
  if (!value->is_array() || value->empty()) refuse(name, *value);
  std::vector<int> numbers;
  for (const nlohmann::json& element : *value) {
    const bool is_valid =
        element.is_number_integer() && element.get<int64_t>() >= lower && element.get<int64_t>() <= upper;
    if (!is_valid) refuse(name, *value);
    numbers.push_back(element.get<int>());
  }
  return numbers;
}

std::string OptionReader::text(const std::string& name, const std::string& fallback,
                               const std::string& allowed, const std::string& help) {
  const nlohmann::json* value = find(name, fallback, allowed, help);
  if (!value) return fallback;
  if (!value->is_string()) refuse(name, *value);
  return value->get<std::string>();
}

nlohmann::json OptionReader::object(const std::string& name, const std::string& help) {
  const nlohmann::json* value = find(name, nlohmann::json::object(), "table", help);
  if (!value) return nlohmann::json::object();
  if (!value->is_object()) refuse(name, *value);
  return *value;
}

bool OptionReader::flag(const std::string& name, bool fallback, const std::string& help) {
  const nlohmann::json* value = find(name, fallback, "true | false", help);
  if (!value) return fallback;
  if (!value->is_boolean()) refuse(name, *value);
  return value->get<bool>();
}

std::optional<double> OptionReader::number_or_word(const std::string& name, std::optional<double> fallback,
                                                   const std::string& word, double lower, double upper,
                                                   const std::string& help) {
  const nlohmann::json shown = fallback ? nlohmann::json(*fallback) : nlohmann::json(word);
  const nlohmann::json* value = find(name, shown, fmt::format("{} .. {} | {}", lower, upper, word), help);
  if (!value) return fallback;
  if (value->is_string() && value->get<std::string>() == word) return std::nullopt;
  if (!value->is_number()) refuse(name, *value);
  const double number = value->get<double>();
  if (!(number >= lower && number <= upper)) refuse(name, *value);
  return number;
}

void OptionReader::finish() const {
  std::vector<std::string> known;
  for (const OptionHelp& option : described_) known.push_back(option.name);
  for (const auto& [name, value] : options_.items()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    if (known.empty()) fail("policies", "\"{}\" has no options, got \"{}\"", policy_, name);
    fail("policies", "\"{}\" has no option \"{}\"{}", policy_, name, suggestion(name, known));
  }
}

const nlohmann::json* OptionReader::find(const std::string& name, const nlohmann::json& fallback,
                                         std::string allowed, const std::string& help) {
  const std::string shown = fallback.is_string() ? fallback.get<std::string>() : fallback.dump();
  described_.push_back({name, shown, std::move(allowed), help});
  const auto given = options_.find(name);
  resolved_[name] = given == options_.end() ? fallback : *given;
  return given == options_.end() ? nullptr : &*given;
}

std::string OptionReader::word_of(const std::string& name, const std::string& fallback,
                                  const std::vector<std::string>& words, const std::string& help) {
  const nlohmann::json* value = find(name, fallback, fmt::format("{}", fmt::join(words, " | ")), help);
  if (!value) return fallback;
  if (!value->is_string()) refuse(name, *value);
  const auto word = value->get<std::string>();
  if (std::find(words.begin(), words.end(), word) != words.end()) return word;
  fail("policies", "option \"{}\" of \"{}\" must be {}, got \"{}\"{}", name, policy_,
       described_.back().allowed, word, nearest_name(word, words).empty() ? "" : suggestion(word, words));
}

void OptionReader::refuse(const std::string& name, const nlohmann::json& value) const {
  fail("policies", "option \"{}\" of \"{}\" must be {}, got {}", name, policy_, described_.back().allowed,
       value.dump());
}

void OptionReader::throw_unreachable(const std::string& name) const {
  throw std::logic_error(fmt::format("option {} of {}: the default is not in its list", name, policy_));
}

}  // namespace bitdial::policies
