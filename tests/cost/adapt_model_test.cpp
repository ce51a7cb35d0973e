#include "bitdial/cost/adapt_model.h"

#include <gtest/gtest.h>

#include "bitdial/core/error.h"
#include "bitdial/cost/apt_throughput.h"

namespace bitdial::cost::adapt {
namespace {

std::vector<Entry> uniform_log(double bits) {
  Entry entry;
  entry.passes = 3.0;
  entry.layers = {{.macs = 100.0, .word_length = bits}, {.macs = 7.0, .word_length = bits}};
  return {entry, entry};
}

TEST(AdaptModel, Float32CostsNothingMoreOrLess) {
  const auto log = uniform_log(32.0);
  EXPECT_NEAR(training_speedup(log), 1.0, 1e-12);
  EXPECT_NEAR(inference_speedup(log), 1.0, 1e-12);
  EXPECT_NEAR(model_size(log), 1.0, 1e-12);
  EXPECT_NEAR(memory(log), 3.0, 1e-12);
}

TEST(AdaptModel, EightBitsSaveInForwardOnly) {
  const auto log = uniform_log(8.0);
  EXPECT_NEAR(training_speedup(log), 1.6, 1e-12);
  EXPECT_NEAR(inference_speedup(log), 4.0, 1e-12);
  EXPECT_NEAR(model_size(log), 0.25, 1e-12);
  EXPECT_NEAR(memory(log), 1.5, 1e-12);
  EXPECT_NEAR(memory(log, 3.0), 1.75, 1e-12);
}

TEST(AdaptModel, ReplaysMuPpet) {
  const Stage alexnet[] = {{8, 16}, {12, 10}, {14, 14}, {16, 14}, {32, 45}};
  const Stage resnet20[] = {{8, 22}, {12, 22}, {14, 10}, {16, 15}, {32, 45}};
  EXPECT_NEAR(training_speedup(replay(alexnet)), 1.2009, 1e-3);
  EXPECT_NEAR(speedup_over_muppet_baseline(replay(alexnet), 99, 128), 1.820, 1e-3);
  EXPECT_NEAR(training_speedup(replay(resnet20)), 1.2349, 1e-3);
  EXPECT_NEAR(speedup_over_muppet_baseline(replay(resnet20), 114, 128), 1.625, 1e-3);
}

TEST(AdaptModel, MeanForwardCostsGiveTheReportedSpeedups) {
  const std::pair<double, double> expected[] = {{0.41, 1.42}, {0.51, 1.32}, {0.67, 1.20}, {0.77, 1.13}};
  double mean = 0.0;
  for (const auto& [cost, speedup] : expected) {
    EXPECT_NEAR(training_speedup_of_mean(cost), speedup, 0.02);
    mean += training_speedup_of_mean(cost) / 4.0;
  }
  EXPECT_NEAR(mean, 1.27, 0.02);
}

TEST(AdaptModel, SearchesCostWhatTheScriptSays) {
  const Layer layer{.macs = 1000.0,
                    .word_length = 12.0,
                    .density = 0.5,
                    .elements = 10.0,
                    .resolution = 50.0,
                    .lookback = 25.0};
  EXPECT_DOUBLE_EQ(push_down_operations(layer), 3.0 * 10.0 * 4.0 * 50.0 * 0.5);  // b = 2 log2(12 - 8)
  EXPECT_DOUBLE_EQ(push_up_operations(layer), 261.0);
  const Model model{.accumulated = 4.0, .overhead_multiplier = 10.0};
  EXPECT_DOUBLE_EQ(overhead(layer, model), 32.0 * (3000.0 + 261.0) * 10.0 / 100.0);
  EXPECT_DOUBLE_EQ(forward_cost(layer, model), 0.5 * (12000.0 + overhead(layer, model)));
  Layer narrow = layer;
  narrow.word_length = 8.0;
  EXPECT_DOUBLE_EQ(push_down_operations(narrow), 3.0 * 10.0 * 1.0 * 50.0 * 0.5);
}

TEST(AdaptModel, IsoAccuracyCountsThePassesThatWereNeeded) {
  std::vector<Entry> log;
  for (const double accuracy : {0.5, 0.7, 0.74, 0.8}) {
    Entry entry = uniform_log(8.0).front();
    entry.passes = 1.0;
    entry.validation_accuracy = accuracy;
    log.push_back(entry);
  }
  ASSERT_TRUE(iso_accuracy_speedup(log, 0.731));
  EXPECT_NEAR(*iso_accuracy_speedup(log, 0.731), 1.6 / (3.0 / 4.0), 1e-12);
  EXPECT_FALSE(iso_accuracy_speedup(log, 0.9));
}

TEST(AdaptModel, SparsityCountsInInferenceAndSize) {
  Entry entry;
  entry.layers = {{.macs = 10.0, .word_length = 8.0, .density = 0.5},
                  {.macs = 30.0, .word_length = 16.0, .density = 1.0}};
  const std::vector<Entry> log{entry};
  EXPECT_DOUBLE_EQ(inference_speedup(log), 32.0 * 40.0 / (0.5 * 10.0 * 8.0 + 30.0 * 16.0));
  EXPECT_DOUBLE_EQ(model_size(log), 0.75 * 24.0 / 64.0);
}

TEST(AdaptModel, EmptyLogsAreErrors) {
  EXPECT_THROW(training_speedup({}), Error);
  EXPECT_THROW(model_size({}), Error);
  EXPECT_THROW(memory({}), Error);
}

TEST(AptThroughput, MatchesTheTable) {
  const std::pair<double, double> cpu[] = {{0, 2.40}, {0.12, 2.52}, {0.25, 2.67}, {0.5, 3.00}, {1, 4.00}};
  for (const auto& [p, speedup] : cpu) EXPECT_NEAR(apt::cpu_speedup(p), speedup, 0.005) << p;
  const std::pair<double, double> gpu[] = {{0, 1.20}, {0.5, 1.50}, {1, 2.00}};
  for (const auto& [p, speedup] : gpu) EXPECT_NEAR(apt::gpu_speedup(p), speedup, 0.005) << p;
  EXPECT_THROW(apt::cpu_speedup(1.1), Error);
}

}  // namespace
}  // namespace bitdial::cost::adapt
