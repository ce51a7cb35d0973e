#include "bitdial/core/quantizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "bitdial/core/error.h"

namespace bitdial {
namespace {

struct Quantised {
  std::vector<int> codes;
  double difference = 0.0;  ///< Diff of APT's error measure
};

/// APT's quantiser and QEM on a whole vector: log2(| sum|x| - sum|x^| | / sum|x| + 1).
Quantised quantise(const std::vector<float>& x, ScaleRule rule, int word_length) {
  float absmax = 0.0F;
  for (const float value : x) absmax = std::max(absmax, std::fabs(value));
  const Format format{.rule = rule, .word_length = word_length};
  const Quantizer quantizer = make_quantizer(format, choose_params(format, {-absmax, absmax}));
  Quantised result;
  double sum = 0.0, quantised_sum = 0.0;
  for (const float value : x) {
    const float r = quantize_value(quantizer, value, 0);
    result.codes.push_back(static_cast<int>(r));
    sum += std::fabs(value);
    quantised_sum += std::fabs(dequantize_value(quantizer, r));
  }
  result.difference = std::log2(std::fabs(sum - quantised_sum) / sum + 1.0);
  return result;
}

TEST(Quantizer, VectorsOfApt) {
  const auto first = quantise({1.0F, -0.5F, 0.25F, 0.001F}, ScaleRule::kPowerOfTwo, 8);
  EXPECT_EQ(first.codes, (std::vector<int>{64, -32, 16, 0}));
  EXPECT_NEAR(first.difference, 0.00082369, 5e-9);

  std::vector<float> tail(101, 0.005F);
  tail[0] = 1.0F;
  EXPECT_NEAR(quantise(tail, ScaleRule::kPowerOfTwo, 8).difference, 0.41503750, 5e-8);
  const auto wider = quantise(tail, ScaleRule::kPowerOfTwo, 16);
  EXPECT_EQ(wider.codes[0], 16384);
  EXPECT_EQ(wider.codes[1], 82);
  EXPECT_NEAR(wider.difference, 0.00046955, 1.7e-8);  // 1.1e-8 from 0.005 being no float32

  EXPECT_EQ(quantise({1.99F, 0.5F}, ScaleRule::kPowerOfTwo, 8).codes, (std::vector<int>{64, 16}));
  EXPECT_EQ(quantise({1.99F, 0.5F}, ScaleRule::kPowerOfTwoVendor, 8).codes, (std::vector<int>{127, 32}));
  EXPECT_EQ(quantise({1.9922F, 0.5F}, ScaleRule::kPowerOfTwoVendor, 8).codes[0], 127);  // clipped by up to 1
}

// Table of specs on APT: Diff at 8 bits, and whether it exceeds T = 0.03.
TEST(Quantizer, ErrorMeasureOfKnownDistributions) {
  std::mt19937_64 generator(4);
  constexpr int kCount = 1 << 20;
  std::vector<float> gauss(kCount), laplace(kCount), student(kCount);
  std::normal_distribution<float> normal;
  std::exponential_distribution<float> exponential;
  std::student_t_distribution<float> student_t(3.0F);
  for (int i = 0; i < kCount; ++i) {
    const auto at = static_cast<size_t>(i);
    gauss[at] = normal(generator);
    laplace[at] = exponential(generator) * (i % 2 ? 1.0F : -1.0F);
    student[at] = student_t(generator);
  }
  EXPECT_LT(quantise(gauss, ScaleRule::kPowerOfTwo, 8).difference, 0.001);
  EXPECT_LT(quantise(laplace, ScaleRule::kPowerOfTwo, 8).difference, 0.005);
  EXPECT_GT(quantise(student, ScaleRule::kPowerOfTwo, 8).difference, 0.03);
  EXPECT_LT(quantise(student, ScaleRule::kPowerOfTwo, 16).difference, 0.001);
}

TEST(Quantizer, TiesGoToEvenCodes) {
  const Format format{.rule = ScaleRule::kFixed, .word_length = 8};
  const Quantizer quantizer = make_quantizer(format, choose_params(format, {}));
  EXPECT_EQ(quantize_value(quantizer, 0.5F, 0), 0.0F);
  EXPECT_EQ(quantize_value(quantizer, 1.5F, 0), 2.0F);
  EXPECT_EQ(quantize_value(quantizer, 2.5F, 0), 2.0F);
  EXPECT_EQ(quantize_value(quantizer, -0.5F, 0), 0.0F);
  EXPECT_EQ(quantize_value(quantizer, -1.5F, 0), -2.0F);
  EXPECT_EQ(quantize_value(quantizer, 127.5F, 0), 127.0F);
}

TEST(Quantizer, RoundingAgreesWithTheMathLibrary) {
  std::mt19937 generator(5);
  std::uniform_real_distribution<float> mantissa(-1.0F, 1.0F);
  for (int exponent = -140; exponent <= 40; ++exponent) {
    for (int i = 0; i < 1000; ++i) {
      const float y = std::ldexp(mantissa(generator), exponent);
      ASSERT_EQ(round_half_even(y), std::nearbyint(y)) << y;
    }
  }
  for (int twice = -70000; twice <= 70000; ++twice) {
    const float y = static_cast<float>(twice) / 2.0F;
    ASSERT_EQ(round_half_even(y), std::nearbyint(y));
  }
}

TEST(Quantizer, StochasticRoundingNeverMovesIntegers) {
  for (const uint32_t bits : {0U, 1U << 8, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
    for (int code = -65536; code <= 65536; ++code) {
      ASSERT_EQ(round_stochastic(static_cast<float>(code), bits), static_cast<float>(code));
    }
  }
}

/// P(up) over all 2^22 random numbers is a count, so its expectation can be checked exactly.
TEST(Quantizer, StochasticRoundingIsUnbiasedOverAllRandomNumbers) {
  for (const float y :
       {0.25F, -0.25F, 0.7F, -5.3F, 100.01F, 126.75F, 30000.125F, 0x1p-22F, 0x1p-20F, -1e-3F, -1e-8F}) {
    int64_t sum = 0;
    for (uint32_t k = 0; k < (1U << 22); ++k) {
      const float r = round_stochastic(y, k << 10);
      ASSERT_LT(std::fabs(r - y), 1.0F + 1e-7F);
      sum += static_cast<int64_t>(r);
    }
    EXPECT_NEAR(static_cast<double>(sum) * 0x1p-22, static_cast<double>(y), 0x1p-23) << y;
  }
}

// SBM: unbiased for every u in [0, L], the ends included, although the clamp comes first.
TEST(Quantizer, AffineStochasticRoundingIsUnbiasedUpToItsEdges) {
  const Format format{.rule = ScaleRule::kAffine, .word_length = 4, .rounding = Rounding::kStochastic};
  const Quantizer quantizer = make_quantizer(format, choose_params(format, {-1.0F, 14.0F}));  // step 1
  const RandomKey key = random_key({.seed = 6});
  constexpr int kDraws = 1 << 18;
  for (const float u : {0.0F, 0.01F, 0.25F, 0.5F, 7.3F, 14.5F, 14.75F, 14.99F, 15.0F}) {
    double sum = 0.0;
    for (uint64_t i = 0; i < kDraws; ++i) {
      const float r = quantize_value(quantizer, u - 1.0F, random_bits(key, i));
      ASSERT_GE(r, 0.0F);
      ASSERT_LE(r, 15.0F);
      sum += static_cast<double>(r);
    }
    const double fraction = static_cast<double>(u) - std::floor(static_cast<double>(u));
    const double standard_error = std::sqrt(fraction * (1.0 - fraction) / kDraws);
    EXPECT_NEAR(sum / kDraws, static_cast<double>(u), 4.5 * standard_error + 1e-6) << u;
  }
}

TEST(Quantizer, SignedStochasticRoundingIsUnbiasedInside) {
  const Format format{
      .rule = ScaleRule::kFixed, .word_length = 8, .fraction_length = 4, .rounding = Rounding::kStochastic};
  const Quantizer quantizer = make_quantizer(format, choose_params(format, {}));
  const RandomKey key = random_key({.seed = 7});
  constexpr int kDraws = 1 << 18;
  for (const float x : {-8.0F, -7.97F, -0.03F, 0.0F, 0.001F, 1.28F, 7.9F, 7.9375F}) {
    double sum = 0.0;
    for (uint64_t i = 0; i < kDraws; ++i) {
      sum +=
          static_cast<double>(dequantize_value(quantizer, quantize_value(quantizer, x, random_bits(key, i))));
    }
    EXPECT_NEAR(sum / kDraws, static_cast<double>(x), 4.5 * 0.5 / 16.0 / std::sqrt(kDraws)) << x;
  }
  for (uint64_t i = 0; i < 1000; ++i) {  // outside: the nearest end
    EXPECT_EQ(quantize_value(quantizer, 7.96F, random_bits(key, i)), 127.0F);
    EXPECT_EQ(quantize_value(quantizer, -9.0F, random_bits(key, i)), -128.0F);
  }
}

// AdaPT's invariant: <32,24> is nearly the identity.
TEST(Quantizer, ThirtyTwoBitsWithTwentyFourBehindThePointAreNearlyTheIdentity) {
  std::mt19937 generator(8);
  std::uniform_real_distribution<float> uniform(-127.0F, 127.0F);
  for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic}) {
    const Format format{
        .rule = ScaleRule::kFixed, .word_length = 32, .fraction_length = 24, .rounding = rounding};
    const Quantizer quantizer = make_quantizer(format, choose_params(format, {}));
    for (uint32_t i = 0; i < 100000; ++i) {
      const float x = i % 2 ? uniform(generator) : uniform(generator) * 1e-3F;
      const float back = dequantize_value(quantizer, quantize_value(quantizer, x, i * 2654435761U));
      ASSERT_LE(std::fabs(back - x), rounding == Rounding::kStochastic ? 0x1p-24F : 0x1p-25F);
      if (std::fabs(x) >= 1.0F) {
        ASSERT_EQ(back, x);
      }
    }
  }
}

TEST(Quantizer, SaturationIsCountedBeyondHalfAStep) {
  const Format format{.rule = ScaleRule::kFixed, .word_length = 8};
  const Quantizer quantizer = make_quantizer(format, choose_params(format, {}));
  EXPECT_FALSE(is_saturated(quantizer, 127.5F));
  EXPECT_TRUE(is_saturated(quantizer, std::nextafter(127.5F, 200.0F)));
  EXPECT_FALSE(is_saturated(quantizer, -128.5F));
  EXPECT_TRUE(is_saturated(quantizer, -129.0F));
  EXPECT_FALSE(is_saturated(quantizer, std::numeric_limits<float>::quiet_NaN()));
  EXPECT_EQ(quantize_value(quantizer, std::numeric_limits<float>::quiet_NaN(), 0), -128.0F);
}

TEST(Quantizer, PowersOfTwoMultiplyByTheirReciprocal) {
  for (const float scale : {1.0F, 0x1p-126F, 0x1p126F, 0x1p-13F}) {
    EXPECT_TRUE(make_quantizer({.rule = ScaleRule::kSymmetric, .word_length = 8}, {.scale = scale})
                    .reciprocal_is_exact);
  }
  for (const float scale : {0.1F, 0x1p127F, 0x1p-127F, std::nextafter(0.5F, 1.0F)}) {
    EXPECT_FALSE(make_quantizer({.rule = ScaleRule::kSymmetric, .word_length = 8}, {.scale = scale})
                     .reciprocal_is_exact);
  }
}

TEST(Quantizer, UnusableScalesAreRefused) {
  const Format format{.rule = ScaleRule::kSymmetric, .word_length = 8};
  for (const float scale : {0.0F, -1.0F, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    EXPECT_THROW(make_quantizer(format, {.scale = scale}), Error);
  }
  EXPECT_THROW(make_quantizer(format, {.scale = 1.0F, .offset = std::nanf("")}), Error);
  EXPECT_THROW(make_quantizer(Format::float32(), {}), Error);
  EXPECT_THROW(make_quantizer({.rule = ScaleRule::kSymmetric, .word_length = 1}, {}), Error);
}

}  // namespace
}  // namespace bitdial
