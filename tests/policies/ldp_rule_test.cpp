#include "bitdial/policies/ldp_rule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

namespace bitdial::policies::ldp {
namespace {

constexpr BitRange kThreeToEight{.min = 3, .max = 8};

TEST(LdpRule, UnitVectorOfTheSpecification) {
  const std::vector<double> x = {-1, -0.62, -0.31, -0.05, 0, 0.17, 0.48, 0.83, 1.4};
  const std::vector<double> upstream = {0.3, -0.2, 0.5, 0.1, -0.4, 0.25, -0.15, 0.6, -0.1};
  struct Row {
    double beta;
    int bits;
    double step, loss_by_step, step_by_bits, loss_by_beta;
  };
  for (const Row& row : {Row{0.0, 3, 0.3428571429, -0.2531250, -0.2716005279, +0.3437444181},
                         Row{0.2, 4, 0.16, -0.2781250, -0.1182971188, +0.1645069309},
                         Row{0.5, 6, 0.0380952381, +0.0718750, -0.0268247435, -0.0096401422},
                         Row{1.0, 8, 0.0094117647, -0.2781250, -0.0065493215, +0.0091076502}}) {
    const BetaGradient got = beta_gradient(x, upstream, row.beta, kThreeToEight);
    EXPECT_EQ(got.bits, row.bits);
    EXPECT_NEAR(got.step, row.step, 1e-9) << row.beta;
    EXPECT_NEAR(got.loss_by_step, row.loss_by_step, 1e-9) << row.beta;
    EXPECT_NEAR(got.step_by_bits, row.step_by_bits, 1e-9) << row.beta;
    EXPECT_NEAR(got.loss_by_beta, row.loss_by_beta, 1e-9) << row.beta;
  }
}

TEST(LdpRule, BitsRoundHalfToEvenAndStayInRange) {
  const BitRange range{.min = 4, .max = 8};  // ties at 1/8, 3/8, 5/8, 7/8
  const std::vector<std::pair<double, int>> rows = {{-3.0, 4},  {0.0, 4},   {0.125, 4}, {0.126, 5},
                                                    {0.375, 6}, {0.625, 6}, {0.875, 8}, {0.874, 7},
                                                    {1.0, 8},   {1.1, 8},   {9.0, 8}};
  for (const auto& [beta, bits] : rows) EXPECT_EQ(bits_of(beta, range), bits) << beta;
  EXPECT_EQ(bits_of(0.5, kThreeToEight), 6);  // 5.5
  EXPECT_EQ(bits_of(0.3, kThreeToEight), 4);  // 4.5
}

TEST(LdpRule, StepAtTheFloorHasNoGradient) {
  EXPECT_EQ(step_of(0.0, 8), 1e-8);
  EXPECT_EQ(step_by_bits(step_of(0.0, 8), 8), 0.0);
  EXPECT_EQ(step_by_bits(1e-8F, 8), 0.0);
  EXPECT_LT(step_by_bits(1e-7, 8), 0.0);
}

// ds/dbits is the derivative of R / (2^b - 1) by a real b.
TEST(LdpRule, StepByBitsIsTheDerivative) {
  for (const int bits : {3, 5, 8, 16}) {
    const double h = 1e-5;
    const auto step = [](double b) { return 2.4 / (std::exp2(b) - 1.0); };
    const double slope = (step(bits + h) - step(bits - h)) / (2 * h);
    EXPECT_NEAR(step_by_bits(step(bits), bits) / slope, 1.0, 1e-8);
  }
}

TEST(LdpRule, EpochReset) {
  EXPECT_EQ(epoch_reset(1.1), 1.1);
  EXPECT_EQ(epoch_reset(1.1000001), 1.0);
  EXPECT_EQ(epoch_reset(-0.1), -0.1);
  EXPECT_EQ(epoch_reset(-0.1000001), 0.0);
  EXPECT_EQ(epoch_reset(0.3), 0.3);
}

// costs.md, section 5: the uniform bits that meet the limit 0.6 lie at 5.39 and 6.20.
TEST(LdpRule, RelativeCost) {
  EXPECT_NEAR(relative_cost(3, 8, 8, CostScope::kForwardBackward), 0.296875, 1e-12);
  EXPECT_NEAR(relative_cost(4, 8, 8, CostScope::kForwardBackward), 80.0 / 192, 1e-12);
  EXPECT_EQ(relative_cost(8, 8, 8, CostScope::kForwardBackward), 1.0);
  EXPECT_LT(relative_cost(5, 8, 8, CostScope::kForwardBackward), 0.6);
  EXPECT_GT(relative_cost(6, 8, 8, CostScope::kForwardBackward), 0.6);
  EXPECT_NEAR(relative_cost(6, 8, 8, CostScope::kForward), 0.5625, 1e-12);
  EXPECT_GT(relative_cost(7, 8, 8, CostScope::kForward), 0.6);
  const auto total = [](double b) { return (b * b + 16 * b) / 192; };
  EXPECT_NEAR(total(5.39), 0.600, 0.001);
  EXPECT_NEAR(5.39 * 5.39 / 64, 0.454, 0.001);
  EXPECT_NEAR(6.20 * 6.20 / 64, 0.600, 0.001);
  EXPECT_NEAR(total(6.20), 0.716, 0.001);
}

TEST(LdpRule, PenaltyBalancesTheTaskGradient) {
  const std::vector<double> shares = {0.5, 0.3, 0.15, 0.05};
  const std::vector<int> bits = {3, 8, 5, 4};
  for (const CostGradient form : {CostGradient::kStructure, CostGradient::kEquation4}) {
    std::vector<double> gradients;
    for (size_t i = 0; i < bits.size(); ++i) {
      gradients.push_back(cost_gradient(shares[i], bits[i], kThreeToEight, form));
    }
    const std::vector<double> added = penalty(gradients, 0.02, 1.0);
    EXPECT_NEAR(std::accumulate(added.begin(), added.end(), 0.0) / 4.0, 0.02, 1e-7);
    EXPECT_NEAR(penalty(gradients, 0.02, 3.0)[1], 3.0 * added[1], 1e-12);
    const bool by_bits = form == CostGradient::kEquation4;
    EXPECT_NEAR(added[1] / added[0], 0.3 / 0.5 * (by_bits ? 8.0 / 3.0 : 1.0), 1e-12);
  }
}

}  // namespace
}  // namespace bitdial::policies::ldp
