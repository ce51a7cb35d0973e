#include "bitdial/core/format.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "bitdial/core/error.h"

namespace bitdial {
namespace {

// 2^s and 2^-s are both normal float32 numbers, so dividing by the step is multiplying by its exact
// reciprocal.
constexpr int kMaxExponent = 126;

// Smallest step of the affine quantiser (SBM, quantize.py).
constexpr float kAffineScaleFloor = 1e-8F;

// One table per enumeration: the names in JSON.
template <class Enum>
using Names = std::array<std::pair<Enum, std::string_view>, 7>;
constexpr Names<ScaleRule> kRules{{{ScaleRule::kFloat, "float"},
                                   {ScaleRule::kFixed, "fixed"},
                                   {ScaleRule::kPowerOfTwo, "power_of_two"},
                                   {ScaleRule::kPowerOfTwoVendor, "power_of_two_vendor"},
                                   {ScaleRule::kBlockFloat, "block_float"},
                                   {ScaleRule::kSymmetric, "symmetric"},
                                   {ScaleRule::kAffine, "affine"}}};
constexpr std::array<std::pair<Granularity, std::string_view>, 3> kGranularities{
    {{Granularity::kTensor, "tensor"}, {Granularity::kChannel, "channel"}, {Granularity::kSample, "sample"}}};
constexpr std::array<std::pair<Rounding, std::string_view>, 2> kRoundings{
    {{Rounding::kNearestEven, "nearest_even"}, {Rounding::kStochastic, "stochastic"}}};
constexpr std::array<std::pair<RangeSource, std::string_view>, 2> kRangeSources{
    {{RangeSource::kExact, "exact"}, {RangeSource::kPrevious, "previous"}}};
constexpr std::array<std::pair<RangeStatistic, std::string_view>, 2> kRangeStatistics{
    {{RangeStatistic::kExtreme, "extreme"}, {RangeStatistic::kSampleMean, "sample_mean"}}};

template <class Table, class Enum>
std::string_view name_of(const Table& table, Enum value) {
  for (const auto& [candidate, name] : table) {
    if (candidate == value) return name;
  }
  fail("format", "unknown enumerator {}", static_cast<int>(value));
}

template <class Table, class Enum>
void read_enum(const nlohmann::json& json, const char* key, const Table& table, Enum& value) {
  const auto member = json.find(key);
  if (member == json.end()) return;
  const auto text = member->template get<std::string>();
  for (const auto& [candidate, name] : table) {
    if (name == text) {
      value = candidate;
      return;
    }
  }
  fail("format", "\"{}\" is no {}", text, key);
}

template <class T>
void read_member(const nlohmann::json& json, const char* key, T& value) {
  if (const auto member = json.find(key); member != json.end()) member->get_to(value);
}

float power_of_two(int exponent) { return std::ldexp(1.0F, exponent); }

QuantParams symmetric_params(int word_length, float absmax) {
  const auto largest = static_cast<float>((int64_t{1} << (word_length - 1)) - 1);
  return {.scale = std::max(absmax / largest, power_of_two(-kMaxExponent))};
}

QuantParams affine_params(const Format& format, Range range) {
  if (format.exact_zero) range = {std::min(range.min, 0.0F), std::max(range.max, 0.0F)};
  const auto steps = static_cast<float>(code_range(format).max);
  const float width = range.max - range.min;
  // A width beyond float32's largest number is divided before it is taken.
  const float step = std::isfinite(width) ? width / steps : range.max / steps - range.min / steps;
  QuantParams params{.scale = std::max(step, kAffineScaleFloor)};
  if (format.exact_zero) {
    const double zero = std::nearbyint(-static_cast<double>(range.min) / static_cast<double>(params.scale));
    params.zero_code = static_cast<int32_t>(std::min(zero, static_cast<double>(code_range(format).max)));
  } else {
    params.offset = range.min + 0.0F;  // never -0.0
  }
  return params;
}

}  // namespace

Container container(const Format& format) {
  if (format.is_float() || format.word_length > 16) return Container::kFloat32;
  const bool is_unsigned = format.rule == ScaleRule::kAffine;
  if (format.word_length > 8) return is_unsigned ? Container::kUInt16 : Container::kInt16;
  return is_unsigned ? Container::kUInt8 : Container::kInt8;
}

bool has_integer_codes(const Format& format) { return container(format) != Container::kFloat32; }

CodeRange code_range(const Format& format) {
  const int64_t half = int64_t{1} << (format.word_length - 1);
  switch (format.rule) {
    case ScaleRule::kFixed:
    case ScaleRule::kPowerOfTwo:
    case ScaleRule::kPowerOfTwoVendor:
    case ScaleRule::kBlockFloat:
      return {-half, half - 1};
    case ScaleRule::kSymmetric:
      return {-(half - 1), half - 1};
    case ScaleRule::kAffine:
      return {0, 2 * half - 1};
    case ScaleRule::kFloat:
      break;
  }
  fail("format", "a float has no codes");
}

float Range::absmax() const { return std::max(std::fabs(min), std::fabs(max)); }

bool Range::is_finite() const { return std::isfinite(min) && std::isfinite(max); }

void check(const Format& format) {
  if (format.is_float()) {
    require(format.word_length == 32 || format.is_bfloat16(), "format",
            "a float has 32 or (bfloat16) 16 bits, not {}", format.word_length);
    return;
  }
  require(format.word_length >= 2 && format.word_length <= 32, "format", "word length {} is outside 2..32",
          format.word_length);
  require(format.rule != ScaleRule::kFixed || std::abs(format.fraction_length) <= kMaxExponent, "format",
          "fraction length {} is outside -{}..{}", format.fraction_length, kMaxExponent, kMaxExponent);
  require(!format.exact_zero || format.rule != ScaleRule::kAffine || format.word_length < 32, "format",
          "an affine format with exact zero has at most 31 bits, not 32");
}

int power_of_two_exponent(ScaleRule rule, float absmax, int word_length) {
  require(std::isfinite(absmax) && absmax >= 0.0F, "format", "largest magnitude {} is not finite", absmax);
  if (absmax == 0.0F) return 0;
  int exponent = 0;
  std::frexp(absmax, &exponent);  // absmax in [2^(exponent - 1), 2^exponent)
  int s = exponent - 1 - (word_length - 2);
  if (rule == ScaleRule::kPowerOfTwo) {
    // The smallest s with absmax <= (2^(n-1) - 1) 2^s; the product is exact in float64.
    const auto largest = static_cast<double>((int64_t{1} << (word_length - 1)) - 1);
    if (static_cast<double>(absmax) > std::ldexp(largest, s)) ++s;
  }
  return std::clamp(s, -kMaxExponent, kMaxExponent);
}

int block_float_shift(Range range, int word_length) {
  require(range.is_finite(), "format", "range {} .. {} is not finite", range.min, range.max);
  const double half = std::ldexp(1.0, word_length - 1);
  const double max = std::fabs(static_cast<double>(range.max));
  const double min = std::fabs(static_cast<double>(range.min));
  if (max == 0.0 && min == 0.0) return 0;
  const auto fits = [&](int s) {
    return std::ldexp(max, s) <= half - 0.5 && std::ldexp(min, s) <= half + 0.5;
  };
  int exponent = 0;
  std::frexp(std::max(max, min), &exponent);  // the larger magnitude lies in [2^(exponent - 1), 2^exponent)
  int s = word_length - exponent;             // puts it in [half, 2 half): at most one too fine
  while (!fits(s)) --s;
  return std::clamp(s, -kMaxExponent, kMaxExponent);
}

QuantParams choose_params(const Format& format, Range range) {
  check(format);
  require(range.is_finite(), "format", "range {} .. {} is not finite", range.min, range.max);
  require(range.min <= range.max, "format", "range {} .. {} is empty", range.min, range.max);
  switch (format.rule) {
    case ScaleRule::kFloat:
      return {};
    case ScaleRule::kFixed:
      return {.scale = power_of_two(-format.fraction_length)};
    case ScaleRule::kPowerOfTwo:
    case ScaleRule::kPowerOfTwoVendor:
      return {.scale = power_of_two(power_of_two_exponent(format.rule, range.absmax(), format.word_length))};
    case ScaleRule::kBlockFloat:
      return {.scale = power_of_two(-block_float_shift(range, format.word_length))};
    case ScaleRule::kSymmetric:
      return symmetric_params(format.word_length, range.absmax());
    case ScaleRule::kAffine:
      return affine_params(format, range);
  }
  fail("format", "unknown scale rule {}", static_cast<int>(format.rule));
}

std::string to_string(const Format& format) {
  const int n = format.word_length;
  std::string text;
  switch (format.rule) {
    case ScaleRule::kFloat:
      return format.is_bfloat16() ? "bfloat16" : "float32";
    case ScaleRule::kFixed:
      text = fmt::format("fixed<{},{}>", n, format.fraction_length);
      break;
    case ScaleRule::kPowerOfTwo:
      text = fmt::format("pow2-{}", n);
      break;
    case ScaleRule::kPowerOfTwoVendor:
      text = fmt::format("pow2v-{}", n);
      break;
    case ScaleRule::kBlockFloat:
      text = fmt::format("bfp-{}", n);
      break;
    case ScaleRule::kSymmetric:
      text = fmt::format("sym-{}", n);
      break;
    case ScaleRule::kAffine:
      text = fmt::format("affine-{}", n);
      break;
  }
  if (format.granularity != Granularity::kTensor) {
    text += fmt::format("/{}", name_of(kGranularities, format.granularity));
  }
  if (format.rule == ScaleRule::kAffine && format.exact_zero) text += "+zero";
  if (format.rounding == Rounding::kStochastic) text += "+sr";
  return text;
}

void to_json(nlohmann::json& json, const Format& format) {
  json = {{"rule", name_of(kRules, format.rule)},
          {"word_length", format.word_length},
          {"fraction_length", format.fraction_length},
          {"exact_zero", format.exact_zero},
          {"granularity", name_of(kGranularities, format.granularity)},
          {"rounding", name_of(kRoundings, format.rounding)},
          {"range_source", name_of(kRangeSources, format.range_source)},
          {"range_statistic", name_of(kRangeStatistics, format.range_statistic)}};
}

void from_json(const nlohmann::json& json, Format& format) {
  format = {};
  read_enum(json, "rule", kRules, format.rule);
  read_member(json, "word_length", format.word_length);
  read_member(json, "fraction_length", format.fraction_length);
  read_member(json, "exact_zero", format.exact_zero);
  read_enum(json, "granularity", kGranularities, format.granularity);
  read_enum(json, "rounding", kRoundings, format.rounding);
  read_enum(json, "range_source", kRangeSources, format.range_source);
  read_enum(json, "range_statistic", kRangeStatistics, format.range_statistic);
  check(format);
}

void to_json(nlohmann::json& json, const QuantParams& params) {
  json = {{"scale", params.scale}, {"zero_code", params.zero_code}, {"offset", params.offset}};
}

void from_json(const nlohmann::json& json, QuantParams& params) {
  params = {};
  read_member(json, "scale", params.scale);
  read_member(json, "zero_code", params.zero_code);
  read_member(json, "offset", params.offset);
}

void to_json(nlohmann::json& json, const Range& range) { json = {{"min", range.min}, {"max", range.max}}; }

void from_json(const nlohmann::json& json, Range& range) {
  range = {};
  read_member(json, "min", range.min);
  read_member(json, "max", range.max);
}

}  // namespace bitdial
