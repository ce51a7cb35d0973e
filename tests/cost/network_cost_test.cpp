#include "bitdial/cost/network_cost.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"
#include "bitdial/cost/bit_operations.h"

namespace bitdial::cost {
namespace {

/// Two convolutions, a depth-wise one and a linear layer.
NetworkCharge small_network() {
  NetworkCharge network;
  network.layers = {{"conv1", LayerKind::kConv2d, 100, 10, 50},
                    {"conv2", LayerKind::kConv2d, 300, 30, 70},
                    {"depthwise", LayerKind::kDepthwiseConv2d, 40, 4, 20},
                    {"fc", LayerKind::kLinear, 60, 60, 6}};
  network.norm_elements = 25;
  network.pool_operations = 10;
  return network;
}

const LayerBits kDepthwise = LayerBits::shared(8, 16);
const LayerBits kFloat{};

TEST(NetworkCost, ThePaperChargesAllOperationsLikeTheQuantisedLayers) {
  const NetworkCharge network = small_network();
  EXPECT_DOUBLE_EQ(network.m_star(), 500 + 50 + 10);
  const LayerBits four = LayerBits::shared(4, 8);
  const std::vector<LayerBits> uniform{four, four, kDepthwise, kFloat};
  EXPECT_DOUBLE_EQ(step_operations(network, uniform, Convention::kPaper), 560.0 * 80.0);
  const std::vector<LayerBits> mixed{four, LayerBits::shared(8, 8), kDepthwise, kFloat};
  EXPECT_DOUBLE_EQ(step_operations(network, mixed, Convention::kPaper),
                   560.0 * (100.0 * 80.0 + 300.0 * 192.0) / 400.0);
  const std::vector<LayerBits> none(4, kFloat);
  EXPECT_DOUBLE_EQ(step_operations(network, none, Convention::kPaper), 560.0 * 3072.0);
}

TEST(NetworkCost, ActuallyEveryLayerCostsItsOwnWidths) {
  const NetworkCharge network = small_network();
  const LayerBits four = LayerBits::shared(4, 8);
  const std::vector<LayerBits> bits{four, four, kDepthwise, kFloat};
  EXPECT_DOUBLE_EQ(step_operations(network, bits, Convention::kActual),
                   400.0 * 80.0 + 40.0 * (64.0 + 2 * 128.0) + (60.0 + 60.0) * 3072.0);
}

TEST(NetworkCost, MeanBitsArePlainAndWeighted) {
  const NetworkCharge network = small_network();
  const std::vector<LayerBits> bits{LayerBits{4, 6, 6, 8, 16}, LayerBits::shared(8, 8), kDepthwise, kFloat};
  EXPECT_DOUBLE_EQ(plain_mean(bits).w, (4.0 + 8.0 + 8.0 + 32.0) / 4.0);
  EXPECT_DOUBLE_EQ(plain_mean(bits).dy, (12.0 + 8.0 + 16.0 + 32.0) / 4.0);
  EXPECT_DOUBLE_EQ(mac_weighted_mean(network, bits).x, (600.0 + 2400.0 + 320.0 + 1920.0) / 500.0);
  EXPECT_DOUBLE_EQ(size_ratio(network, bits), (40.0 + 240.0 + 32.0 + 1920.0) / (32.0 * 104.0));
  EXPECT_EQ(weight_bytes(network, bits), 10 + 30 + 4 + 4 * 60);
  EXPECT_EQ(activation_bytes(network, bits, 2), 2 * (50 + 70 + 20 + 4 * 6));
}

TEST(NetworkCost, AMeterAddsStepsAndGoesOnAfterAStop) {
  const NetworkCharge network = small_network();
  const std::vector<LayerBits> low(4, LayerBits::shared(4, 8));
  const std::vector<LayerBits> high(4, LayerBits::shared(8, 8));
  CostMeter meter(network, 128);
  EXPECT_EQ(meter.totals().gbitops, 0.0);
  meter.add(low, 3);
  CostMeter resumed(network, 128);
  resumed.load_state(nlohmann::json::parse(meter.state().dump()));
  resumed.add(high);
  const CostTotals totals = resumed.totals();
  EXPECT_EQ(totals.steps, 4);
  EXPECT_DOUBLE_EQ(totals.gbitops, training_gbitops(560.0, (3 * 80.0 + 192.0) / 4.0, 4, 128));
  EXPECT_DOUBLE_EQ(totals.ratio_fw8bw8, (3 * 80.0 + 192.0) / (4 * 192.0));
  EXPECT_DOUBLE_EQ(totals.ratio_float32, (3 * 80.0 + 192.0) / (4 * 3072.0));
  EXPECT_DOUBLE_EQ(totals.mean_bits.w, 5.0);
  EXPECT_DOUBLE_EQ(totals.size_ratio, 0.25);
  EXPECT_DOUBLE_EQ(totals.memory_ratio, 1.0 + 2.0 * 5.0 / 32.0);
  EXPECT_DOUBLE_EQ(totals.training_speedup, 2.0 / (1.0 + 5.0 / 32.0));
}

TEST(NetworkCost, AWrongNumberOfLayersIsAnError) {
  EXPECT_THROW(step_operations(small_network(), std::vector<LayerBits>(3), Convention::kPaper), Error);
  EXPECT_THROW(CostMeter({}, 128), Error);
}

}  // namespace
}  // namespace bitdial::cost
