#include "bitdial/policies/adapt_rules.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <random>

namespace bitdial::policies {
namespace {

constexpr PushUpOptions kWide{.buff = 0};

// adapt.md, table of PushUp suggestions: D, s1, and s2 + FL'.
TEST(AdaptRules, PushUpGivesTheSuggestionsOfTheTable) {
  struct Row {
    double D;
    int64_t s1, s2;
  };
  for (const Row& row : {Row{3, 103, 1}, Row{4, 7, 5}, Row{5, 3, 12}, Row{7.1, 2, 30}, Row{7.4, 1, 32}}) {
    const PushUpResult result = push_up(row.D, {32, 0}, AdaptStrategy::kMax, kWide);
    EXPECT_EQ(result.s1, row.s1) << row.D;
    EXPECT_EQ(result.s2, row.s2) << row.D;
    // s2 falls by FL' and has the floor 0.
    EXPECT_EQ(push_up(row.D, {32, 20}, AdaptStrategy::kMin, kWide).s2, std::max<int64_t>(row.s2 - 20, 0));
  }
  for (const double D : {1.0, 2.0, 2.718}) {
    const PushUpResult result = push_up(D, {8, 4}, AdaptStrategy::kMax, {.buff = 4});
    EXPECT_EQ(result.s, 1);
    EXPECT_EQ(result.format, (FixedPoint{9, 5}));
  }
}

TEST(AdaptRules, PushUpTakesTheStrategysSuggestion) {
  const PushUpOptions options{.buff = 4};
  // D = 5: s1 = 3, s2 = 12 - 5 = 7.
  EXPECT_EQ(push_up(5, {9, 5}, AdaptStrategy::kMin, options).format, (FixedPoint{12, 8}));
  EXPECT_EQ(push_up(5, {9, 5}, AdaptStrategy::kMean, options).format, (FixedPoint{14, 10}));
  EXPECT_EQ(push_up(5, {9, 5}, AdaptStrategy::kMax, options).format, (FixedPoint{16, 12}));
  EXPECT_EQ(push_up(8, {9, 5}, AdaptStrategy::kMax, options).format, (FixedPoint{32, 28}));
  // All quantised gradients zero: D is infinite, one bit.
  const double none = adapt_diversity(25, 0.0);
  EXPECT_EQ(none, std::numeric_limits<double>::infinity());
  EXPECT_EQ(push_up(none, {9, 5}, AdaptStrategy::kMax, options).s, 1);
}

TEST(AdaptRules, ArxivFormOfPushUp) {
  const PushUpOptions options{.form = PushUpForm::kArxiv, .buff = 4};
  // ln 5 = 1.609: ceil(1 / 0.609) = 2; 32 ln^2 - 1 = 81.9, so 32 - 5.
  const PushUpResult wide = push_up(5, {9, 5}, AdaptStrategy::kMin, options);
  EXPECT_EQ(wide.s1, 2);
  EXPECT_EQ(wide.s2, 27);
  // ln 1.2 = 0.182: the first is negative and floored at 1, 32 ln^2 - 1 = 0.064 -> 1 - 4 and floored.
  const PushUpResult narrow = push_up(1.2, {8, 4}, AdaptStrategy::kMax, options);
  EXPECT_EQ(narrow.s1, 1);
  EXPECT_EQ(narrow.s2, 1);
}

TEST(AdaptRules, FormatsKeepTheirBoundsAfterEverySwitch) {
  std::mt19937 random(1);
  for (const auto& [wl_max, buff] : {std::pair{32, 4}, {32, 8}, {16, 2}, {16, 4}}) {
    const PushUpOptions options{.buff = buff, .wl_max = wl_max};
    for (int i = 0; i < 5000; ++i) {
      const int FL = std::uniform_int_distribution(4, wl_max - buff)(random);
      const int WL = std::uniform_int_distribution(FL, wl_max)(random);
      const double D = std::uniform_real_distribution(1.0, 12.0)(random);
      const auto strategy = static_cast<AdaptStrategy>(i % 3);
      const FixedPoint format = push_up(D, {WL, FL}, strategy, options).format;
      EXPECT_GE(format.FL, 4);
      EXPECT_LE(format.FL, wl_max - buff);
      EXPECT_GE(format.WL, format.FL + buff);
      EXPECT_LE(format.WL, wl_max);
    }
  }
}

TEST(AdaptRules, GradientsFormatsAgreeByStrategy) {
  const std::array<FixedPoint, 3> formats{FixedPoint{16, 8}, {18, 11}, {23, 12}};
  const PushUpOptions options{.form = PushUpForm::kKlGradients, .buff = 4};
  EXPECT_EQ(agree(formats, AdaptStrategy::kMin, options), (FixedPoint{16, 8}));
  EXPECT_EQ(agree(formats, AdaptStrategy::kMean, options), (FixedPoint{19, 11}));
  EXPECT_EQ(agree(formats, AdaptStrategy::kMax, options), (FixedPoint{20, 10}));
}

// The length of a window when gradients are uncorrelated, D = sqrt(n).
int window(const LookbackOptions& options, int lb) {
  for (int n = 1;; ++n) {
    lb = adapt_lookback(std::sqrt(static_cast<double>(n)), lb, options);
    if (n >= lb) return n;
  }
}

TEST(AdaptRules, WindowsCloseAfterThePublishedNumberOfSteps) {
  struct Run {
    LookbackOptions options;
    int steps;
  };
  // AlexNet / CIFAR10, AlexNet / CIFAR100, ResNet20 / CIFAR10, ResNet20 / CIFAR100.
  for (const Run& run : {Run{{25, 100, 0.33}, 28}, Run{{25, 150, 0.9}, 29}, Run{{25, 100, 1.0}, 25},
                         Run{{25, 100, 0.9}, 26}}) {
    EXPECT_EQ(window(run.options, run.options.lb_lwr), run.steps);
  }
}

TEST(AdaptRules, EveryLaterWindowHasTheSameLength) {
  for (const auto& [options, steps] :
       {std::pair{LookbackOptions{25, 100, 0.33}, 28}, {LookbackOptions{25, 150, 0.9}, 29}}) {
    int lb = options.lb_lwr;
    for (int repeat = 0; repeat < 4; ++repeat) {
      int n = 0;
      do {
        ++n;
        lb = adapt_lookback(std::sqrt(static_cast<double>(n)), lb, options);
      } while (n < lb);
      EXPECT_EQ(n, steps) << repeat;
    }
  }
}

TEST(AdaptRules, LookbackStaysWithinItsBoundsForEverySmoothing) {
  // 5 * 0.08 + 5 * (1 - 0.08) is a little more than 5.
  for (int gamma = 1; gamma <= 100; ++gamma) {
    for (int upper = 1; upper <= 150; ++upper) {
      EXPECT_EQ(adapt_lookback(1.0, upper, {1, upper, gamma / 100.0}), upper) << gamma;
    }
  }
}

TEST(AdaptRules, LookbackAtItsEnds) {
  const LookbackOptions options{25, 100, 1.0};
  EXPECT_EQ(adapt_lookback(std::numeric_limits<double>::infinity(), 100, options), 25);
  EXPECT_EQ(adapt_lookback(0.0, 25, options), 100);
  EXPECT_EQ(adapt_lookback(1.0, 25, options), 100);
  // lb_lwr > lb_upr (two groups of the released configurations): the target is the constant lb_upr.
  for (const double D : {1.0, 3.0, 50.0}) EXPECT_EQ(adapt_lookback(D, 256, {256, 100, 1.0}), 100);
}

TEST(AdaptRules, ResolutionMovesOnlyAtTheEndsOfTheLookback) {
  const LookbackOptions options{25, 100, 0.33};
  EXPECT_EQ(adapt_resolution(100, 50, options, 50, 150), 51);
  EXPECT_EQ(adapt_resolution(100, 150, options, 50, 150), 150);
  EXPECT_EQ(adapt_resolution(25, 51, options, 50, 150), 50);
  EXPECT_EQ(adapt_resolution(25, 50, options, 50, 150), 50);
  EXPECT_EQ(adapt_resolution(60, 77, options, 50, 150), 77);
}

TEST(AdaptRules, WorseLossEscalatesInTwoStepsAndAnyImprovementEndsIt) {
  constexpr int m = 3;
  StrategyState state;
  for (int i = 0; i < m + 1; ++i) adapt_strategy(state, 1.0, m, false);
  EXPECT_EQ(state.strategy, AdaptStrategy::kMin);
  adapt_strategy(state, 2.0, m, false);
  EXPECT_EQ(state.strategy, AdaptStrategy::kMean);
  EXPECT_EQ(state.history.size(), static_cast<size_t>(m) + 1);
  adapt_strategy(state, 3.0, m, false);
  EXPECT_EQ(state.strategy, AdaptStrategy::kMax);
  adapt_strategy(state, 3.0, m, false);
  EXPECT_EQ(state.strategy, AdaptStrategy::kMax);
  adapt_strategy(state, 0.1, m, false);
  EXPECT_EQ(state.strategy, AdaptStrategy::kMin);
}

TEST(AdaptRules, ReleasedMeanDividesAllEntriesByOneLess) {
  // H has m + 1 = 4 entries: sum / 3 = 1.33 > 1.1 is an improvement, the true mean 1.0 is not.
  StrategyState clean, released;
  for (const double loss : {1.0, 1.0, 1.0, 1.0, 1.1}) {
    adapt_strategy(clean, loss, 3, false);
    adapt_strategy(released, loss, 3, true);
  }
  EXPECT_EQ(clean.strategy, AdaptStrategy::kMean);
  EXPECT_EQ(released.strategy, AdaptStrategy::kMin);
}

}  // namespace
}  // namespace bitdial::policies
