#include "bitdial/train/recipe_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"
#include "bitdial/train/recipe_keys.h"

namespace bitdial::train {

namespace {

nlohmann::json to_json_value(const toml::node& node, const std::string& where) {
  if (const auto* value = node.as_string()) return value->get();
  if (const auto* value = node.as_integer()) return value->get();
  if (const auto* value = node.as_floating_point()) return value->get();
  if (const auto* value = node.as_boolean()) return value->get();
  if (const auto* array = node.as_array()) {
    nlohmann::json all = nlohmann::json::array();
    for (const toml::node& element : *array) all.push_back(to_json_value(element, where));
    return all;
  }
  if (const auto* table = node.as_table()) {
    nlohmann::json all = nlohmann::json::object();
    for (const auto& [name, member] : *table) all[std::string(name.str())] = to_json_value(member, where);
    return all;
  }
  fail("recipe", "{} must not be a date or time", where);
}

// What came, for an error message: `3`, `"ten"`, `[1, 2]`, without line breaks.
std::string shown(const toml::node& node) {
  if (node.is_table()) return "a table";
  if (node.is_date() || node.is_time() || node.is_date_time()) return "a date or time";
  return to_json_value(node, "").dump();
}

// Overwrites the keys that a TOML table holds, keeps the others.
class Reader : public KeyVisitor {
 public:
  Reader(const toml::table& root, std::string source) : root_(root), source_(std::move(source)) {}

  void section(const std::string& name, const std::string&) override {
    section_ = name;
    known_.push_back(name);
    table_ = nullptr;
    if (const toml::node* node = root_.get(name)) {
      table_ = node->as_table();
      require(table_ != nullptr, "recipe", "{}{} must be a table of keys, got {}", place(*node), name,
              shown(*node));
    }
  }

  void key(const std::string& name, std::string& value, const std::vector<std::string>& words,
           const std::string&) override {
    const toml::node* node = find(name);
    if (!node) return;
    const auto* text = node->as_string();
    if (!text) refuse(name, *node, "a text in quotes");
    if (!words.empty() && std::find(words.begin(), words.end(), text->get()) == words.end()) {
      std::string allowed;
      for (const std::string& word : words) allowed += (allowed.empty() ? "\"" : "\" | \"") + word;
      const std::string near = nearest_name(text->get(), words);
      fail("recipe", "{}{}.{} must be {}\", got \"{}\"{}", place(*node), section_, name, allowed, text->get(),
           near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near));
    }
    value = text->get();
  }

  void key(const std::string& name, int64_t& value, const Limits& limits, const std::string&) override {
    const toml::node* node = find(name);
    if (!node) return;
    const auto* integer = node->as_integer();
    if (!integer || !limits.contain(static_cast<double>(integer->get())))
      refuse(name, *node, "an integer", limits);
    value = integer->get();
  }

  void key(const std::string& name, double& value, const Limits& limits, const std::string&) override {
    if (const toml::node* node = find(name)) value = read_number(name, *node, "a number", *node, limits);
  }

  void key(const std::string& name, bool& value, const std::string&) override {
    const toml::node* node = find(name);
    if (!node) return;
    const auto* flag = node->as_boolean();
    if (!flag) refuse(name, *node, "true or false");
    value = flag->get();
  }

  void key(const std::string& name, std::vector<double>& value, const Limits& limits,
           const std::string&) override {
    const toml::node* node = find(name);
    if (!node) return;
    const auto* array = node->as_array();
    if (!array) refuse(name, *node, "a list of numbers", limits);
    value.clear();
    for (const toml::node& element : *array) {
      value.push_back(read_number(name, element, "a list of numbers", *node, limits));
    }
  }

  void key(const std::string& name, nlohmann::json& value, const std::string&) override {
    const toml::node* node = find(name);
    if (!node) return;
    if (!node->is_table()) refuse(name, *node, "a table");
    // Single options given later are added to those given before.
    value.update(to_json_value(*node, place(*node) + section_ + "." + name));
  }

  void key(const std::string& name, std::vector<PrecisionOverride>& value, const std::string&) override {
    const toml::node* node = find(name);
    if (!node) return;
    const auto* array = node->as_array();
    if (!array) refuse(name, *node, "a list of tables");
    value.clear();
    for (const toml::node& element : *array) value.push_back(read_override(name, element));
  }

  /// Call last: throws for a table or key that no visit asked for.
  void refuse_unknown() const {
    for (const auto& [name, node] : root_) {
      const std::string section(name.str());
      if (!contains(known_, section)) refuse_unknown(node, section);
      if (const toml::table* table = node.as_table()) {
        for (const auto& [key_name, member] : *table) {
          const std::string key = section + "." + std::string(key_name.str());
          if (!contains(known_, key)) refuse_unknown(member, key);
        }
      }
    }
  }

 private:
  const toml::node* find(const std::string& name) {
    known_.push_back(section_ + "." + name);
    return table_ ? table_->get(name) : nullptr;
  }

  // "recipes/a.toml:12:3: "
  std::string place(const toml::node& node) const {
    const toml::source_region& region = node.source();
    if (region.begin.line == 0) return source_ + ": ";
    return fmt::format("{}:{}:{}: ", source_, region.begin.line, region.begin.column);
  }

  [[noreturn]] void refuse(const std::string& name, const toml::node& node, const std::string& expected,
                           const Limits& limits = {}) const {
    const std::string range = to_string(limits);
    fail("recipe", "{}{}.{} must be {}{}{}, got {}", place(node), section_, name, expected,
         range.empty() ? "" : " ", range, shown(node));
  }

  double read_number(const std::string& name, const toml::node& number, const std::string& expected,
                     const toml::node& whole, const Limits& limits) const {
    const std::optional<double> value = number.is_boolean() ? std::nullopt : number.value<double>();
    if (!value || !std::isfinite(*value) || !limits.contain(*value)) refuse(name, whole, expected, limits);
    return *value;
  }

  PrecisionOverride read_override(const std::string& name, const toml::node& node) const {
    const toml::table* table = node.as_table();
    if (!table) refuse(name, node, "a list of tables");
    PrecisionOverride one;
    bool has_policy = false, has_bits = false;
    for (const auto& [key_name, member] : *table) {
      const std::string key(key_name.str());
      if (key == "layers" || key == "match") {
        const bool is_single = key == "match" && member.is_string();
        one.layers =
            is_single ? std::vector{member.as_string()->get()} : read_words(name + "." + key, member);
      } else if (key == "tensors") {
        one.tensors = read_words(name + ".tensors", member);
      } else if (key == "policy") {
        if (!member.is_string()) refuse(name + ".policy", member, "a text in quotes");
        one.policy = member.as_string()->get();
        has_policy = true;
      } else if (key == "options") {
        if (!member.is_table()) refuse(name + ".options", member, "a table");
        one.options.update(to_json_value(member, place(member)));
      } else if (read_bits(name, key, member, one)) {
        has_bits = true;
      } else {
        const std::vector<std::string> known{"layers", "tensors", "policy",     "options",
                                             "match",  "weight",  "activation", "gradient"};
        fail("recipe", "{}unknown key \"{}.{}.{}\"{}", place(member), section_, name, key,
             suggestion(key, known));
      }
    }
    if (has_bits && !has_policy) one.policy = "static";
    return one;
  }

  // `weight = 4`: word lengths of `static`, for those operands only.
  bool read_bits(const std::string& name, const std::string& key, const toml::node& member,
                 PrecisionOverride& one) const {
    const bool is_bits = key == "weight" || key == "activation" || key == "gradient";
    if (!is_bits) return false;
    const Limits limits{.minimum = 2, .maximum = 32};
    const auto* bits = member.as_integer();
    if (!bits || !limits.contain(static_cast<double>(bits->get()))) {
      refuse(name + "." + key, member, "an integer", limits);
    }
    one.options[key + "_bits"] = bits->get();
    one.tensors.emplace_back(key == "weight" ? "w" : key == "activation" ? "x" : "dy");
    return true;
  }

  std::vector<std::string> read_words(const std::string& name, const toml::node& node) const {
    const toml::array* array = node.as_array();
    if (!array) refuse(name, node, "a list of texts");
    std::vector<std::string> words;
    for (const toml::node& element : *array) {
      if (!element.is_string()) refuse(name, node, "a list of texts");
      words.push_back(element.as_string()->get());
    }
    return words;
  }

  static bool contains(const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  }

  // A key is compared with all full names and, misplaced in another table or in none, with the keys alone.
  [[noreturn]] void refuse_unknown(const toml::node& node, const std::string& name) const {
    std::string near;
    const std::string last = name.substr(name.rfind('.') + 1);
    for (const std::string& known : known_) {
      if (known.find('.') != std::string::npos && known.substr(known.find('.') + 1) == last) near = known;
    }
    const std::string table = name.substr(0, name.find('.') + 1);
    std::vector<std::string> beside;  // keys of the same table first
    for (const std::string& known : known_) {
      if (name.find('.') != std::string::npos && known.starts_with(table))
        beside.push_back(known.substr(table.size()));
    }
    if (const std::string close = nearest_name(last, beside); !close.empty()) near = table + close;
    if (near.empty()) near = nearest_name(name, known_);
    const std::string hint = near.empty() ? std::string() : fmt::format("; did you mean \"{}\"?", near);
    fail("recipe", "{}unknown {} \"{}\"{}", place(node), node.is_table() ? "table" : "key", name, hint);
  }

  const toml::table& root_;
  std::string source_;
  std::string section_;
  const toml::table* table_ = nullptr;
  std::vector<std::string> known_;
};

}  // namespace

toml::table parse_toml(std::string_view text, const std::string& source) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {
    const toml::source_region& region = error.source();
    fail("recipe", "{}:{}:{}: {}", source, region.begin.line, region.begin.column, error.description());
  }
}

void overlay(Recipe& recipe, const toml::table& table, const std::string& source) {
  Reader reader(table, source);
  visit_keys(recipe, reader);
  reader.refuse_unknown();
}

}  // namespace bitdial::train
