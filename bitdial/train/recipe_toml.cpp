// Recipes to TOML, and their keys to help lines.
#include <fmt/format.h>

#include <cmath>

#include "bitdial/core/error.h"
#include "bitdial/train/recipe.h"
#include "bitdial/train/recipe_keys.h"

namespace bitdial::train {
namespace {

// A basic string of TOML 1.0.
std::string toml_string(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

// Shortest text that reads back as the same double and is a float in TOML's eyes.
std::string number(double value) {
  std::string text = fmt::format("{}", value);
  const bool integer_like = text.find_first_of(".einf") == std::string::npos;
  return integer_like ? text + ".0" : text;
}

std::string bare_or_quoted(const std::string& key) {
  const bool bare = !key.empty() && key.find_first_not_of(
                                        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
                                        std::string::npos;
  return bare ? key : toml_string(key);
}

std::string inline_value(const nlohmann::json& value) {
  switch (value.type()) {
    case nlohmann::json::value_t::string:
      return toml_string(value.get<std::string>());
    case nlohmann::json::value_t::number_float:
      return number(value.get<double>());
    case nlohmann::json::value_t::array: {
      std::string text;
      for (const auto& element : value) text += (text.empty() ? "" : ", ") + inline_value(element);
      return "[" + text + "]";
    }
    case nlohmann::json::value_t::object: {
      std::string text;
      for (const auto& [name, member] : value.items()) {
        text += (text.empty() ? "" : ", ") + bare_or_quoted(name) + " = " + inline_value(member);
      }
      return text.empty() ? "{}" : "{ " + text + " }";
    }
    case nlohmann::json::value_t::boolean:
    case nlohmann::json::value_t::number_integer:
    case nlohmann::json::value_t::number_unsigned:
      return value.dump();
    default:
      fail("recipe", "TOML cannot hold the value {}", value.dump());
  }
}

std::string inline_value(const std::vector<std::string>& words) {
  return inline_value(nlohmann::json(words));
}

class Writer : public KeyVisitor {
 public:
  void section(const std::string& name, const std::string&) override {
    section_ = name;
    text_ += fmt::format("{}[{}]\n", text_.empty() ? "" : "\n", name);
  }
  void key(const std::string& name, std::string& value, const std::vector<std::string>&,
           const std::string&) override {
    line(name, toml_string(value));
  }
  void key(const std::string& name, int64_t& value, const Limits&, const std::string&) override {
    line(name, fmt::format("{}", value));
  }
  void key(const std::string& name, double& value, const Limits&, const std::string&) override {
    line(name, number(value));
  }
  void key(const std::string& name, bool& value, const std::string&) override {
    line(name, value ? "true" : "false");
  }
  void key(const std::string& name, std::vector<double>& value, const Limits&, const std::string&) override {
    line(name, inline_value(nlohmann::json(value)));
  }
  void key(const std::string& name, nlohmann::json& value, const std::string&) override {
    text_ += fmt::format("\n[{}.{}]\n", section_, name);
    for (const auto& [option, setting] : value.items()) line(bare_or_quoted(option), inline_value(setting));
  }
  void key(const std::string& name, std::vector<PrecisionOverride>& value, const std::string&) override {
    for (const PrecisionOverride& one : value) {
      text_ += fmt::format("\n[[{}.{}]]\n", section_, name);
      line("layers", inline_value(one.layers));
      line("tensors", inline_value(one.tensors));
      line("policy", toml_string(one.policy));
      line("options", inline_value(one.options));
    }
  }

  const std::string& text() const { return text_; }

 private:
  void line(const std::string& name, const std::string& value) {
    text_ += fmt::format("{} = {}\n", name, value);
  }

  std::string section_;
  std::string text_;
};

class Describer : public KeyVisitor {
 public:
  void section(const std::string& name, const std::string&) override { section_ = name; }
  void key(const std::string& name, std::string& value, const std::vector<std::string>& words,
           const std::string& help) override {
    std::string allowed;
    for (const std::string& word : words) allowed += (allowed.empty() ? "" : " | ") + word;
    add(name, "text", toml_string(value), allowed, help);
  }
  void key(const std::string& name, int64_t& value, const Limits& limits, const std::string& help) override {
    add(name, "integer", fmt::format("{}", value), to_string(limits), help);
  }
  void key(const std::string& name, double& value, const Limits& limits, const std::string& help) override {
    add(name, "number", number(value), to_string(limits), help);
  }
  void key(const std::string& name, bool& value, const std::string& help) override {
    add(name, "true or false", value ? "true" : "false", "", help);
  }
  void key(const std::string& name, std::vector<double>& value, const Limits& limits,
           const std::string& help) override {
    add(name, "list of numbers", inline_value(nlohmann::json(value)), to_string(limits), help);
  }
  void key(const std::string& name, nlohmann::json&, const std::string& help) override {
    add(name, "table", "{}", "", help);
  }
  void key(const std::string& name, std::vector<PrecisionOverride>&, const std::string& help) override {
    add(name, "list of tables", "[]", "", help);
  }

  std::vector<RecipeKey> keys;

 private:
  void add(const std::string& name, const std::string& type, const std::string& value,
           const std::string& allowed, const std::string& help) {
    keys.push_back({section_ + "." + name, type, value, allowed, help});
  }

  std::string section_;
};

}  // namespace

std::string to_toml(const Recipe& recipe) {
  Recipe copy = recipe;
  Writer writer;
  visit_keys(copy, writer);
  return writer.text();
}

std::vector<RecipeKey> recipe_keys() {
  Recipe defaults;
  Describer describer;
  visit_keys(defaults, describer);
  return describer.keys;
}

}  // namespace bitdial::train
