#include "bitdial/kernels/problem.h"

#include <array>
#include <charconv>
#include <map>
#include <optional>

#include "bitdial/core/error.h"

namespace bitdial::kernels {
namespace {

constexpr std::array<std::string_view, 16> kKeys = {"mb", "g",  "ic", "oc", "ih", "iw", "oh", "ow",
                                                    "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw"};

using Values = std::map<std::string_view, int64_t>;

std::string_view key_at(std::string_view text, std::string_view rest) {
  for (const std::string_view key : kKeys) {
    if (rest.starts_with(key)) return key;
  }
  fail("problem", "'{}': cannot read '{}', expected e.g. mb64ic64ih32oc64kh3sh1ph1", text, rest);
}

Values parse_values(std::string_view text) {
  Values values;
  for (std::string_view rest = text; !rest.empty();) {
    if (rest.front() == '_') {
      rest.remove_prefix(1);
      continue;
    }
    if (rest.front() == 'n') break;
    const std::string_view key = key_at(text, rest);
    rest.remove_prefix(key.size());
    int64_t value = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    require(error == std::errc(), "problem", "'{}': no number behind '{}'", text, key);
    rest.remove_prefix(static_cast<size_t>(end - rest.data()));
    require(values.emplace(key, value).second, "problem", "'{}': '{}' is given twice", text, key);
  }
  return values;
}

std::optional<int64_t> find(const Values& values, std::string_view key) {
  const auto found = values.find(key);
  return found == values.end() ? std::nullopt : std::optional(found->second);
}

/// One of a pair of sizes; a missing one is the other, or the default.
int64_t size_of(const Values& values, std::string_view key, std::string_view twin, int64_t fallback) {
  return find(values, key).value_or(find(values, twin).value_or(fallback));
}

int64_t required(std::string_view text, const Values& values, std::string_view key, std::string_view twin) {
  const bool present = find(values, key) || find(values, twin);
  require(present, "problem", "'{}': {} is missing", text, key);
  return size_of(values, key, twin, 0);
}

void check_output(std::string_view text, std::optional<int64_t> given, std::string_view key,
                  int64_t expected) {
  require(!given || *given == expected, "problem", "'{}': {}{} does not fit, the output has {}", text, key,
          given.value_or(0), expected);
}

}  // namespace

ConvShape parse_problem(std::string_view text) {
  const Values v = parse_values(text);
  ConvShape s;
  s.batch = find(v, "mb").value_or(2);
  s.groups = find(v, "g").value_or(1);
  s.in_channels = required(text, v, "ic", "ic");
  s.out_channels = required(text, v, "oc", "oc");
  s.in_height = required(text, v, "ih", "iw");
  s.in_width = required(text, v, "iw", "ih");
  s.kernel_height = required(text, v, "kh", "kw");
  s.kernel_width = required(text, v, "kw", "kh");
  s.stride_height = size_of(v, "sh", "sw", 1);
  s.stride_width = size_of(v, "sw", "sh", 1);
  s.padding_height = size_of(v, "ph", "pw", 0);
  s.padding_width = size_of(v, "pw", "ph", 0);
  s.dilation_height = size_of(v, "dh", "dw", 0) + 1;
  s.dilation_width = size_of(v, "dw", "dh", 0) + 1;
  check(s);
  check_output(text, find(v, "oh"), "oh", s.out_height());
  check_output(text, find(v, "ow"), "ow", s.out_width());
  return s;
}

std::string to_string(const ConvShape& s) {
  std::string text = s.groups == 1 ? "" : fmt::format("g{}", s.groups);
  text += fmt::format("mb{}ic{}", s.batch, s.in_channels);
  const auto pair = [&](std::string_view key, int64_t height, int64_t width, int64_t fallback) {
    if (height == fallback && width == fallback) return;
    text += fmt::format("{}h{}", key, height);
    if (width != height) text += fmt::format("{}w{}", key, width);
  };
  pair("i", s.in_height, s.in_width, -1);
  text += fmt::format("oc{}", s.out_channels);
  pair("o", s.out_height(), s.out_width(), -1);
  pair("k", s.kernel_height, s.kernel_width, -1);
  pair("s", s.stride_height, s.stride_width, 1);
  pair("p", s.padding_height, s.padding_width, 0);
  pair("d", s.dilation_height - 1, s.dilation_width - 1, 0);
  return text;
}

}  // namespace bitdial::kernels
