#include "bitdial/policies/adapt_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "bitdial/core/parallel.h"

namespace bitdial::policies {
namespace {

// Normal, cut at 1.732 sigma as AdaPT's initialiser does.
std::vector<float> truncated_normal(size_t count, double sigma, unsigned seed = 3) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.0, sigma);
  std::vector<float> values;
  while (values.size() < count) {
    const double x = normal(random);
    if (std::fabs(x) <= std::sqrt(3.0) * sigma) values.push_back(static_cast<float>(x));
  }
  return values;
}

RandomKey key(uint32_t call) { return random_key({.seed = 5, .call = call}); }

TEST(AdaptSearch, KlAndSurrogateOfAHandMadeTensor) {
  // Four bins over 0 .. 1: p = 1/4 each. <8,1> rounds 0.25 to 0 (even) and 0.75 to 1: q = 1/2, 0, 0, 1/2.
  const std::vector<float> values{0.0F, 0.25F, 0.75F, 1.0F};
  const HistogramLoss loss(values, 4);
  const std::array<double, 4> p{0.25, 0.25, 0.0, 0.5};
  const std::array<double, 4> q{0.5, 0.0, 0.0, 0.5};
  double kl = 0.0, surrogate = 0.0;
  for (size_t b = 0; b < p.size(); ++b) {
    if (p[b] > 0.0) kl += p[b] * std::log(p[b] / std::max(q[b], 1e-12));
    surrogate += std::exp(q[b]) * (q[b] - p[b]) / 4.0;
  }
  EXPECT_NEAR(loss.kl({8, 1}, false, {}), kl, 1e-12);
  EXPECT_NEAR(loss.surrogate({8, 1}, false, {}), surrogate, 1e-12);
  EXPECT_EQ(loss.kl({8, 2}, false, {}), 0.0);
}

TEST(AdaptSearch, ValuesOutsideTheRangeCountInEdgeBinsOrNotAtAll) {
  // On the grid of halves 0.8 becomes 1.0: outside 0 .. 0.8.
  const std::vector<float> values{0.0F, 0.2F, 0.4F, 0.8F};
  const HistogramLoss loss(values, 4);  // p = 1/4, 1/4, 1/4, 1/4
  // q inside: 0, 0, 0.5 -> bins 0, 0, 2; 1.0 outside.
  const double kl = 0.25 * (std::log(0.25 / 0.5) + std::log(0.25 / 1e-12) + 2 * std::log(0.25 / 0.25));
  const std::array<double, 4> q{2.0 / 3, 0.0, 1.0 / 3, 0.0};
  double surrogate = 0.0;
  for (const double share : q) surrogate += std::exp(share) * (share - 0.25) / 4.0;
  EXPECT_NEAR(loss.kl({8, 1}, false, {}), kl, 1e-9);
  EXPECT_NEAR(loss.surrogate({8, 1}, false, {}), surrogate, 1e-9);
}

TEST(AdaptSearch, CleanSearchFindsTheSmallestLengthsThatPass) {
  const std::vector<float> weights = truncated_normal(36864, 0.04);
  const PushDownOptions options{.stochastic = false};
  const PushDownResult result = push_down(weights, {24, 20}, 100, options, {});
  const HistogramLoss loss(weights, 100);
  const int FL = result.format.FL, WL = result.format.WL;
  EXPECT_LE(loss.kl({32, FL}, false, {}), options.kl_tol);
  for (int lower = 4; lower < FL; ++lower) EXPECT_GT(loss.kl({32, lower}, false, {}), options.kl_tol);
  EXPECT_LE(loss.kl({WL, FL}, false, {}), options.kl_tol);
  for (int lower = FL; lower < WL; ++lower) EXPECT_GT(loss.kl({lower, FL}, false, {}), options.kl_tol);
  // The step must be no coarser than a bin: FL >= log2(100 / 0.14) = 9.5, and not much finer.
  EXPECT_GE(FL, 9);
  EXPECT_LE(FL, 13);
}

TEST(AdaptSearch, CleanSearchNeverRaisesButLiftsFlToItsMinimum) {
  const std::vector<float> weights = truncated_normal(4096, 0.04);
  const PushDownResult kept = push_down(weights, {8, 5}, 50, {}, {});
  EXPECT_EQ(kept.format, (FixedPoint{8, 5}));  // nothing passes: the present format stays
  const PushDownResult lifted = push_down(weights, {4, 2}, 50, {}, {});
  EXPECT_EQ(lifted.format.FL, 4);
  EXPECT_GE(lifted.format.WL, 4);
}

TEST(AdaptSearch, ReleasedSearchTakesOneBitWhereTheSurrogateIsPositive) {
  // W[0] of AlexNet's first layer, 363 values at coarse grids: the surrogate is clearly positive.
  const std::vector<float> weights = truncated_normal(363, 0.037);
  const PushDownOptions options{.released = true};
  EXPECT_EQ(push_down(weights, {9, 6}, 50, options, {}).format, (FixedPoint{8, 5}));
  EXPECT_EQ(push_down(weights, {12, 8}, 50, options, {}).format, (FixedPoint{11, 7}));
  // Where the search has no room it stays: FL = 5 fails at 4 and returns the upper end.
  EXPECT_EQ(push_down(weights, {8, 5}, 50, options, {}).format.FL, 5);
  EXPECT_EQ(push_down(weights, {4, 2}, 50, options, {}).format.FL, 4);
}

// What the log keeps: every candidate in order, with the loss that the rule saw.
TEST(AdaptSearch, SaysWhatItLookedAt) {
  const std::vector<float> weights = truncated_normal(4096, 0.04);
  const PushDownOptions clean{.stochastic = false};
  const PushDownResult result = push_down(weights, {20, 16}, 50, clean, {});
  ASSERT_EQ(result.FL.size(), static_cast<size_t>(result.format.FL - 4 + 1));
  ASSERT_EQ(result.WL.size(), static_cast<size_t>(result.format.WL - result.format.FL + 1));
  const HistogramLoss loss(weights, 50);
  for (size_t k = 0; k < result.FL.size(); ++k) {
    const int FL = 4 + static_cast<int>(k);
    EXPECT_EQ(result.FL[k], (Candidate{FL, loss.kl({32, FL}, false, {})}));
    EXPECT_EQ(result.FL[k].loss > clean.kl_tol, FL < result.format.FL);
  }
  // The released bisection evaluates its lower end for FL, the middle for WL: 4, 10, 13, 15 and 18, 19.
  const PushDownOptions released{.released = true};
  const PushDownResult bisected = push_down({20, 16}, released, [](FixedPoint) { return 1.0; });
  const std::vector<Candidate> FL{{4, 1.0}, {10, 1.0}, {13, 1.0}}, WL{{18, 1.0}, {19, 1.0}};
  EXPECT_EQ(bisected.FL, FL);
  EXPECT_EQ(bisected.WL, WL);
  EXPECT_EQ(bisected.format, (FixedPoint{19, 15}));
}

TEST(AdaptSearch, StochasticRoundingIsUnbiasedInTheHistogram) {
  // Half of all 0.25 steps go up: between the two neighbours on the grid the shares are equal.
  std::vector<float> values(20000, 0.25F);
  values.front() = 0.0F;
  values.back() = 0.5F;
  const HistogramLoss loss(values, 2);  // bins [0, 0.25), [0.25, 0.5]; p = ~0, ~1
  const double kl = loss.kl({8, 1}, true, key(1));
  EXPECT_NEAR(kl, std::log(2.0), 0.03);
  EXPECT_NE(kl, loss.kl({8, 1}, true, key(2)));
}

TEST(AdaptSearch, ResultsDoNotDependOnThreads) {
  const std::vector<float> weights = truncated_normal(200000, 0.05);
  const int before = num_threads();
  set_num_threads(1);
  const PushDownResult one = push_down(weights, {20, 16}, 50, {}, {.seed = 1});
  set_num_threads(2);
  const PushDownResult two = push_down(weights, {20, 16}, 50, {}, {.seed = 1});
  set_num_threads(before);
  EXPECT_EQ(one.format, two.format);
  EXPECT_EQ(one.FL, two.FL);
  EXPECT_EQ(one.WL, two.WL);
}

TEST(AdaptSearch, GradientsRaiseFlThenWl) {
  const std::vector<float> gradient = truncated_normal(5000, 1e-3);
  const PushDownOptions options{.stochastic = false};
  const RaisedFormat wanted = raise_for_gradient(gradient, {8, 4}, 50, options, {});
  const FixedPoint raised = wanted.format;
  EXPECT_GT(raised.FL, 8);
  EXPECT_GE(raised.WL, raised.FL - 1);
  EXPECT_LE(wanted.loss, options.kl_tol);
  EXPECT_EQ(HistogramLoss(gradient, 50).kl(raised, false, {}), wanted.loss);
  EXPECT_EQ(raise_for_gradient(gradient, {32, 28}, 50, options, {}).format, (FixedPoint{32, 28}));
}

TEST(AdaptSearch, EqualValuesLoseNothing) {
  const std::vector<float> zeros(100, 0.0F);
  EXPECT_EQ(push_down(zeros, {8, 6}, 50, {}, {}).format, (FixedPoint{4, 4}));
  EXPECT_EQ(HistogramLoss({}, 50).kl({8, 4}, true, {}), 0.0);
}

}  // namespace
}  // namespace bitdial::policies
