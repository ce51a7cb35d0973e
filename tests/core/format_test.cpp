#include "bitdial/core/format.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/quantizer.h"

namespace bitdial {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Format make(ScaleRule rule, int word_length) { return {.rule = rule, .word_length = word_length}; }

/// Ranges from denormal to the largest float, one-sided ones included.
std::vector<Range> random_ranges(int count) {
  std::mt19937_64 generator(1);
  std::uniform_real_distribution<float> mantissa(-1.0F, 1.0F);
  std::uniform_int_distribution<int> exponent(-148, 127);
  std::vector<Range> ranges{{0, 0},  {-kLargest, kLargest}, {0, kLargest}, {0x1p-149F, 0x1p-149F}, {3, 3},
                            {-2, -2}};
  while (static_cast<int>(ranges.size()) < count) {
    const float a = std::ldexp(mantissa(generator), exponent(generator));
    const float b = std::ldexp(mantissa(generator), exponent(generator));
    ranges.push_back({std::min(a, b), std::max(a, b)});
  }
  return ranges;
}

TEST(Format, CodesFitTheirContainers) {
  struct {
    ScaleRule rule;
    int word_length;
    CodeRange codes;
    Container container;
  } const cases[] = {
      {ScaleRule::kFixed, 8, {-128, 127}, Container::kInt8},
      {ScaleRule::kPowerOfTwo, 2, {-2, 1}, Container::kInt8},
      {ScaleRule::kPowerOfTwoVendor, 9, {-256, 255}, Container::kInt16},
      {ScaleRule::kSymmetric, 8, {-127, 127}, Container::kInt8},
      {ScaleRule::kSymmetric, 16, {-32767, 32767}, Container::kInt16},
      {ScaleRule::kAffine, 4, {0, 15}, Container::kUInt8},
      {ScaleRule::kAffine, 16, {0, 65535}, Container::kUInt16},
      {ScaleRule::kAffine, 32, {0, 4294967295}, Container::kFloat32},
      {ScaleRule::kFixed, 32, {-2147483648, 2147483647}, Container::kFloat32},
      {ScaleRule::kPowerOfTwo, 17, {-65536, 65535}, Container::kFloat32},
  };
  for (const auto& item : cases) {
    const Format format = make(item.rule, item.word_length);
    EXPECT_EQ(code_range(format).min, item.codes.min) << to_string(format);
    EXPECT_EQ(code_range(format).max, item.codes.max) << to_string(format);
    EXPECT_EQ(container(format), item.container) << to_string(format);
    EXPECT_EQ(has_integer_codes(format), item.word_length <= 16);
  }
  EXPECT_EQ(container(Format::float32()), Container::kFloat32);
  EXPECT_FALSE(has_integer_codes(Format::float32()));
  EXPECT_FALSE(has_integer_codes(Format::bfloat16()));
  EXPECT_TRUE(Format::bfloat16().is_float() && !Format::float32().is_bfloat16());
  EXPECT_THROW(code_range(Format::float32()), Error);
}

TEST(Format, FixedStepsLookAtNoData) {
  Format format = make(ScaleRule::kFixed, 8);
  format.fraction_length = 4;
  EXPECT_EQ(choose_params(format, {}).scale, 0.0625F);
  EXPECT_EQ(choose_params(format, {-100, 100}).scale, 0.0625F);
  format.fraction_length = 20;  // longer than the word: small fractions only
  EXPECT_EQ(choose_params(format, {}).scale, 0x1p-20F);
  format.fraction_length = -3;
  EXPECT_EQ(choose_params(format, {}).scale, 8.0F);
}

// specs of APT: s = ceil(log2(Z / (2^(n-1) - 1))), and floor(log2 Z) - (n - 2).
TEST(Format, PowerOfTwoExponentsAreTheSmallestThatFit) {
  std::mt19937_64 generator(2);
  std::uniform_real_distribution<float> mantissa(1.0F, 2.0F);
  for (int word_length = 2; word_length <= 32; ++word_length) {
    const double largest = std::ldexp(1.0, word_length - 1) - 1;
    for (int exponent = -90; exponent <= 90; ++exponent) {
      const float absmax = std::ldexp(mantissa(generator), exponent);
      const int s = power_of_two_exponent(ScaleRule::kPowerOfTwo, absmax, word_length);
      EXPECT_LE(absmax, std::ldexp(largest, s));
      EXPECT_GT(absmax, std::ldexp(largest, s - 1));
      EXPECT_EQ(power_of_two_exponent(ScaleRule::kPowerOfTwoVendor, absmax, word_length),
                exponent - (word_length - 2));
    }
  }
}

TEST(Format, PowerOfTwoExponentsAtTheirEdges) {
  const auto ceil_rule = [](float z, int n) { return power_of_two_exponent(ScaleRule::kPowerOfTwo, z, n); };
  EXPECT_EQ(ceil_rule(127.0F, 8), 0);  // the largest code itself
  EXPECT_EQ(ceil_rule(std::nextafter(127.0F, 200.0F), 8), 1);
  EXPECT_EQ(ceil_rule(127.0F * 0x1p-40F, 8), -40);
  EXPECT_EQ(ceil_rule(1.0F, 2), 0);
  EXPECT_EQ(ceil_rule(0.0F, 8), 0);
  EXPECT_EQ(power_of_two_exponent(ScaleRule::kPowerOfTwoVendor, 0.0F, 8), 0);
  EXPECT_EQ(ceil_rule(1.0F, 8), -6);  // vector 1 of APT
  EXPECT_EQ(ceil_rule(1.0F, 16), -14);
  EXPECT_EQ(ceil_rule(1.99F, 8), -5);  // vector 3
  EXPECT_EQ(power_of_two_exponent(ScaleRule::kPowerOfTwoVendor, 1.99F, 8), -6);
  EXPECT_EQ(ceil_rule(0x1p-149F, 8), -126);  // the step and its reciprocal stay normal
  EXPECT_EQ(ceil_rule(kLargest, 2), 126);
  EXPECT_THROW(ceil_rule(kInfinity, 8), Error);
  EXPECT_THROW(ceil_rule(kNan, 8), Error);
}

// The rules differ exactly where the mantissa of Z lies in (2 - 2^(2-n), 2): the ceil rule's next step.
TEST(Format, ExponentRulesAgreeBelowTheLastCode) {
  for (const int n : {4, 8, 12, 16}) {
    const float edge = 2.0F - std::ldexp(1.0F, 2 - n);
    for (const int exponent : {-20, 0, 13}) {
      for (const float mantissa :
           {1.0F, 1.5F, edge, std::nextafter(edge, 2.0F), std::nextafter(2.0F, 1.0F)}) {
        const float z = std::ldexp(mantissa, exponent);
        const int difference = power_of_two_exponent(ScaleRule::kPowerOfTwo, z, n) -
                               power_of_two_exponent(ScaleRule::kPowerOfTwoVendor, z, n);
        EXPECT_EQ(difference, mantissa > edge ? 1 : 0) << n << " bits, mantissa " << mantissa;
      }
    }
  }
}

TEST(Format, EveryRangeGivesAUsableGridThatCoversIt) {
  for (const ScaleRule rule : {ScaleRule::kPowerOfTwo, ScaleRule::kSymmetric, ScaleRule::kAffine}) {
    for (const int word_length : {2, 3, 8, 12, 16}) {
      for (const bool exact_zero : {false, true}) {
        Format format = make(rule, word_length);
        format.exact_zero = exact_zero;
        for (const Range& range : random_ranges(500)) {
          const Quantizer quantizer = make_quantizer(format, choose_params(format, range));
          ASSERT_GE(quantizer.scale, 0x1p-126F);
          ASSERT_TRUE(std::isfinite(quantizer.scale));
          for (const float end : {range.min, range.max}) {
            if (std::fabs(end) > 0x1p125F) continue;  // beyond the largest step
            const float y = steps(quantizer, end);
            // Exact zero rounds the zero point by up to half a step.
            const float slack = rule == ScaleRule::kAffine && exact_zero ? 0.501F : 0.01F;
            ASSERT_GE(y, quantizer.low - slack) << to_string(format) << " " << range.min << " " << range.max;
            ASSERT_LE(y, quantizer.high + slack) << to_string(format) << " " << range.min << " " << range.max;
          }
        }
      }
    }
  }
}

TEST(Format, RangesOfNoWidthKeepTheirValue) {
  for (const float value : {0.0F, 1.0F, -3.25F, 1e-30F, 7e30F}) {
    const Range range{value, value};
    for (const ScaleRule rule : {ScaleRule::kSymmetric, ScaleRule::kAffine}) {
      const Quantizer quantizer = make_quantizer(make(rule, 8), choose_params(make(rule, 8), range));
      const float back = dequantize_value(quantizer, quantize_value(quantizer, value, 0));
      EXPECT_NEAR(back, value, std::fabs(value) * 1e-6F);
    }
  }
}

// gemmlowp form of SBM: scale = max((max - min) / (2^n - 1), 1e-8), z = min.
TEST(Format, AffineGridsStartAtTheMinimum) {
  const QuantParams params = choose_params(make(ScaleRule::kAffine, 8), {-1.0F, 4.1F});
  EXPECT_EQ(params.scale, (4.1F - -1.0F) / 255.0F);
  EXPECT_EQ(params.offset, -1.0F);
  EXPECT_EQ(params.zero_code, 0);
  EXPECT_EQ(choose_params(make(ScaleRule::kAffine, 8), {0.5F, 0.5F}).scale, 1e-8F);
  EXPECT_FALSE(std::signbit(choose_params(make(ScaleRule::kAffine, 8), {-0.0F, 1.0F}).offset));
  EXPECT_TRUE(std::isfinite(choose_params(make(ScaleRule::kAffine, 2), {-kLargest, kLargest}).scale));
}

TEST(Format, ExactZeroIsACodeWhateverTheRange) {
  Format format = make(ScaleRule::kAffine, 8);
  format.exact_zero = true;
  for (const int word_length : {2, 8, 16, 24, 31}) {
    format.word_length = word_length;
    for (const Range& range : random_ranges(500)) {
      const QuantParams params = choose_params(format, range);
      ASSERT_EQ(params.offset, 0.0F);
      ASSERT_GE(params.zero_code, 0);
      ASSERT_LE(params.zero_code, code_range(format).max);
      const Quantizer quantizer = make_quantizer(format, params);
      ASSERT_EQ(dequantize_value(quantizer, quantize_value(quantizer, 0.0F, 0)), 0.0F);
    }
  }
  format.word_length = 8;
  EXPECT_EQ(choose_params(format, {2.0F, 5.1F}).zero_code, 0);  // widened to 0 .. 5.1
  EXPECT_EQ(choose_params(format, {2.0F, 5.1F}).scale, 5.1F / 255.0F);
  EXPECT_EQ(choose_params(format, {-5.1F, -2.0F}).zero_code, 255);
}

TEST(Format, ImpossibleFormatsAndRangesAreRefused) {
  EXPECT_THROW(check(make(ScaleRule::kSymmetric, 1)), Error);
  EXPECT_THROW(check(make(ScaleRule::kSymmetric, 33)), Error);
  EXPECT_THROW(check(make(ScaleRule::kFloat, 8)), Error);
  Format fixed = make(ScaleRule::kFixed, 8);
  fixed.fraction_length = 127;
  EXPECT_THROW(check(fixed), Error);
  Format affine = make(ScaleRule::kAffine, 32);
  EXPECT_NO_THROW(check(affine));
  affine.exact_zero = true;
  EXPECT_THROW(check(affine), Error);
  for (const Range& range : {Range{kNan, kNan}, Range{0, kInfinity}, Range{1, 0}}) {
    EXPECT_THROW(choose_params(make(ScaleRule::kSymmetric, 8), range), Error);
  }
}

TEST(Format, NamesAreShort) {
  Format format;
  EXPECT_EQ(to_string(format), "float32");
  EXPECT_EQ(to_string(Format::bfloat16()), "bfloat16");
  EXPECT_EQ(nlohmann::json(Format::bfloat16()).get<Format>(), Format::bfloat16());
  format = make(ScaleRule::kFixed, 8);
  format.fraction_length = 4;
  EXPECT_EQ(to_string(format), "fixed<8,4>");
  format = make(ScaleRule::kPowerOfTwo, 16);
  EXPECT_EQ(to_string(format), "pow2-16");
  format.rule = ScaleRule::kPowerOfTwoVendor;
  EXPECT_EQ(to_string(format), "pow2v-16");
  format = make(ScaleRule::kSymmetric, 8);
  format.granularity = Granularity::kChannel;
  EXPECT_EQ(to_string(format), "sym-8/channel");
  format = make(ScaleRule::kAffine, 8);
  format.granularity = Granularity::kSample;
  format.rounding = Rounding::kStochastic;
  format.exact_zero = true;
  EXPECT_EQ(to_string(format), "affine-8/sample+zero+sr");
}

TEST(Format, JsonKeepsEverything) {
  for (const ScaleRule rule : {ScaleRule::kFloat, ScaleRule::kFixed, ScaleRule::kPowerOfTwo,
                               ScaleRule::kPowerOfTwoVendor, ScaleRule::kSymmetric, ScaleRule::kAffine}) {
    const int bits = rule == ScaleRule::kFloat ? 16 : 11;
    Format format{.rule = rule, .word_length = bits, .fraction_length = -7, .exact_zero = true};
    format.granularity = Granularity::kSample;
    format.rounding = Rounding::kStochastic;
    format.range_source = RangeSource::kPrevious;
    format.range_statistic = RangeStatistic::kSampleMean;
    const auto text = nlohmann::json(format).dump();
    EXPECT_EQ(nlohmann::json::parse(text).get<Format>(), format) << text;
  }
  EXPECT_EQ(nlohmann::json::parse(nlohmann::json(Format{}).dump()).get<Format>(), Format{});
}

TEST(Format, JsonKeepsFloatsExactly) {
  std::mt19937_64 generator(3);
  std::uniform_real_distribution<float> mantissa(1.0F, 2.0F);
  for (int exponent = -140; exponent <= 127; ++exponent) {
    const QuantParams params{.scale = std::ldexp(mantissa(generator), exponent),
                             .zero_code = 255,
                             .offset = -std::ldexp(mantissa(generator), -exponent / 2)};
    EXPECT_EQ(nlohmann::json::parse(nlohmann::json(params).dump()).get<QuantParams>(), params);
    const Range range{params.offset, params.scale};
    EXPECT_EQ(nlohmann::json::parse(nlohmann::json(range).dump()).get<Range>(), range);
  }
}

TEST(Format, JsonOfAnotherKindIsRefused) {
  EXPECT_THROW(nlohmann::json::parse(R"({"rule": "logarithmic"})").get<Format>(), Error);
  EXPECT_THROW(nlohmann::json::parse(R"({"rule": "affine", "word_length": 99})").get<Format>(), Error);
}

// MuPPET's step: the largest s with max 2^s <= 2^(b-1) - 0.5 and |min| 2^s <= 2^(b-1) + 0.5.
TEST(Format, BlockFloatTakesTheFinestStepThatHoldsTheRange) {
  EXPECT_EQ(block_float_shift({0.0F, 0.0F}, 8), 0);
  EXPECT_EQ(block_float_shift({0.0F, 127.5F}, 8), 0);
  EXPECT_EQ(block_float_shift({0.0F, 127.51F}, 8), -1);
  EXPECT_EQ(block_float_shift({-128.5F, 1.0F}, 8), 0);
  EXPECT_EQ(block_float_shift({-128.51F, 1.0F}, 8), -1);
  EXPECT_EQ(block_float_shift({-1.0F, 1.0F}, 8), 6);  // 1 * 2^7 = 128 > 127.5
  EXPECT_EQ(block_float_shift({-1.0F, 0.5F}, 8), 7);
  EXPECT_EQ(block_float_shift({-1e-30F, 1e-38F}, 16), 114);
  const Format format{.rule = ScaleRule::kBlockFloat, .word_length = 12};
  EXPECT_EQ(choose_params(format, {-3.0F, 3.0F}).scale, 0x1p-9F);
  EXPECT_EQ(code_range(format).min, -2048);
  EXPECT_EQ(code_range(format).max, 2047);
  EXPECT_EQ(to_string(format), "bfp-12");
  EXPECT_EQ(nlohmann::json(format).get<Format>(), format);
}

// floor(log2(min(...))) as the specification writes it, in float64.
TEST(Format, BlockFloatShiftIsTheSpecifiedFormula) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
  for (int i = 0; i < 2000; ++i) {
    const float a = std::ldexp(uniform(random), i % 40 - 20), b = std::ldexp(uniform(random), i % 40 - 20);
    const Range range{std::min(a, b), std::max(a, b)};
    for (const int bits : {8, 12, 14, 16}) {
      const double half = std::ldexp(1.0, bits - 1);
      const double up = std::fabs((half - 0.5) / static_cast<double>(range.max));
      const double down = std::fabs((half + 0.5) / static_cast<double>(range.min));
      EXPECT_EQ(block_float_shift(range, bits), static_cast<int>(std::floor(std::log2(std::min(up, down)))));
    }
  }
}

}  // namespace
}  // namespace bitdial
