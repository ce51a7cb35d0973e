#include "bitdial/cost/bit_operations.h"

#include <gtest/gtest.h>

#include <vector>

#include "bitdial/core/error.h"

namespace bitdial::cost {
namespace {

constexpr int64_t T = kPublishedIterations;

double relative_cost(double forward, double gradient) {
  return training_factor(forward, gradient) / kFw8Bw8Factor;
}

BitSchedule cpt(int minimum, int maximum, int gradient) {
  return BitSchedule::cyclic(T, 32, minimum, maximum, gradient);
}

TEST(BitOperations, StagesOfPfqCostWhatIsPublished) {
  EXPECT_NEAR(relative_cost(3, 8), 0.2969, 5e-5);
  EXPECT_NEAR(relative_cost(4, 8), 0.4167, 5e-5);
  EXPECT_NEAR(relative_cost(5, 8), 0.5469, 5e-5);
  EXPECT_NEAR(relative_cost(6, 8), 0.6875, 5e-5);
  EXPECT_NEAR(relative_cost(3, 6), 0.2344, 5e-5);
  EXPECT_NEAR(relative_cost(4, 6), 0.3333, 5e-5);
  EXPECT_NEAR(relative_cost(6, 6), 0.5625, 5e-5);
}

TEST(BitOperations, OperandsOfTheirOwnWidthMultiplyInTheirGemm) {
  // FPROP 4 x 5, BPROP 7 x 4, WTGRAD 6 x 8.
  EXPECT_DOUBLE_EQ(training_factor(LayerBits{4, 5, 6, 7, 8}), 20 + 28 + 48);
  EXPECT_DOUBLE_EQ(training_factor(LayerBits{}), kFloat32Factor);
}

TEST(BitOperations, CyclicPrecisionSavesWhatItsScheduleSays) {
  const auto percent = [](const BitSchedule& schedule, int forward, int gradient) {
    return 100.0 * saving(schedule, BitSchedule::constant(T, forward, gradient));
  };
  EXPECT_NEAR(percent(cpt(3, 8, 8), 8, 8), 36.67, 0.01);
  EXPECT_NEAR(percent(cpt(3, 6, 6), 6, 6), 30.05, 0.01);
  EXPECT_NEAR(percent(cpt(4, 8, 8), 8, 8), 30.11, 0.01);
  EXPECT_NEAR(percent(cpt(4, 6, 6), 6, 6), 20.69, 0.01);
  EXPECT_NEAR(percent(cpt(5, 8, 8), 8, 8), 23.16, 0.01);
  EXPECT_NEAR(percent(cpt(5, 6, 8), 6, 8), 10.23, 0.01);
  EXPECT_NEAR(percent(cpt(4, 6, 8), 6, 8), 19.96, 0.01);
  EXPECT_NEAR(percent(cpt(3, 4, 6), 4, 6), 14.84, 0.01);
  EXPECT_NEAR(mean_training_factor(cpt(3, 8, 8)) / kFw8Bw8Factor, 0.63327, 5e-6);
}

TEST(BitOperations, ShorterRunsOfCyclicPrecisionHaveTheSpecifiedRatio) {
  const std::pair<int64_t, double> expected[] = {{10, 0.6305}, {12, 0.6299}, {15, 0.6310}, {20, 0.6317}};
  for (const auto& [epochs, ratio] : expected) {
    const BitSchedule schedule = BitSchedule::cyclic(epochs * 391, 32, 3, 8, 8);
    EXPECT_NEAR(mean_training_factor(schedule) / kFw8Bw8Factor, ratio, 5e-5) << epochs;
  }
}

TEST(BitOperations, StaticResNetsCostTheFormulaColumn) {
  EXPECT_NEAR(training_gbitops(charged_macs(168220928, 716800, 65 * 64), kFw8Bw8Factor), 2.6685e8, 5e3);
  EXPECT_NEAR(training_gbitops(charged_macs(1814073344, 2483712), kFw8Bw8Factor), 2.861e9, 5e5);
}

TEST(BitOperations, LdpCostsMatchItsLimit) {
  EXPECT_NEAR(ldp_uniform_bits(0.6, 8, false), 5.39, 0.005);
  EXPECT_NEAR(ldp_uniform_bits(0.6, 8, true), 6.20, 0.005);
  const double both = ldp_uniform_bits(0.6, 8, false);
  EXPECT_NEAR(ldp_relative_cost(both, 8, false), 0.600, 1e-9);
  EXPECT_NEAR(ldp_relative_cost(both, 8, true), 0.454, 0.001);
  const double forward = ldp_uniform_bits(0.6, 8, true);
  EXPECT_NEAR(ldp_relative_cost(forward, 8, false), 0.716, 0.001);
  const std::vector<double> weights{1.0, 3.0};
  const std::vector<double> bits{8.0, 4.0};
  EXPECT_DOUBLE_EQ(ldp_relative_cost(weights, bits, 8, true), (1.0 + 3.0 * 0.25) / 4.0);
  EXPECT_THROW(ldp_relative_cost(weights, std::vector<double>{8.0}, 8, true), Error);
  EXPECT_THROW(ldp_uniform_bits(0.0, 8, true), Error);
}

TEST(BitOperations, FracTrainsOptionsHaveTheirPublishedCp) {
  EXPECT_NEAR(fractrain_cost_percent(4, 3, 6), 1.758, 5e-4);
  EXPECT_NEAR(fractrain_cost_percent(4, 6, 12), 4.688, 5.1e-4);
  EXPECT_NEAR(fractrain_cost_percent(6, 8, 16), 8.854, 5e-4);
  EXPECT_NEAR(fractrain_cost_percent(8, 8, 8), 6.25, 1e-12);
}

TEST(BitOperations, AnEmptyScheduleHasNoCost) { EXPECT_THROW(mean_training_factor(BitSchedule()), Error); }

}  // namespace
}  // namespace bitdial::cost
