#include "bitdial/train/cost_estimate.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"

namespace bitdial::train {
namespace {

CostRequest request(const std::string& policy, const std::string& bits, const std::string& model,
                    int64_t classes = 100) {
  CostRequest wanted;
  wanted.model = model;
  wanted.options.classes = classes;
  wanted.policy = policy;
  wanted.bits = bits;
  return wanted;
}

TEST(CostEstimate, CyclicPrecisionOfResNet74IsThePublishedCost) {
  const CostEstimate estimate = estimate_cost(request("cpt", "3-8/8", "resnet74-cifar"));
  const auto json = to_json(estimate, cost::Convention::kPaper);
  EXPECT_EQ(json.at("macs"), 168220928);
  EXPECT_EQ(json.at("m_star"), 169658688);
  EXPECT_NEAR(json.at("ratio_fw8bw8").get<double>(), 0.63327, 5e-6);
  EXPECT_NEAR(json.at("gbitops").get<double>(), 1.691e8, 3e-3 * 1.691e8);
  EXPECT_NEAR(json.at("gbitops_fw8bw8").get<double>(), 2.6685e8, 1e-3 * 2.6685e8);
}

TEST(CostEstimate, ConventionsDifferWhereLayersStayWide) {
  const CostEstimate estimate = estimate_cost(request("cpt", "3-8/8", "mobilenet-v2-cifar"));
  EXPECT_NEAR(estimate.totals.gbitops, 0.944e8, 3e-3 * 0.944e8);
  // Batch normalisation, the linear layer and depth-wise convolutions at their own widths.
  const double depthwise = 5879808.0 * (64.0 + 2 * 128.0);
  const double floats = (128000.0 + 2 * 1724928.0) * 3072.0;
  const double others = (91270144.0 - 5879808.0 - 128000.0) * 192.0 * 0.6332747395833333;
  EXPECT_NEAR(estimate.totals.gbitops_actual, (depthwise + floats + others) * 8.192e6 / 1e9, 1e3);
  EXPECT_GT(estimate.totals.ratio_fw8bw8_actual, estimate.totals.ratio_fw8bw8);
}

TEST(CostEstimate, StaticBitsComeInTwoForms) {
  const CostEstimate shared = estimate_cost(request("static:shared:6/8", "", "resnet20-cifar"));
  EXPECT_NEAR(shared.totals.ratio_fw8bw8, 0.6875, 1e-12);
  EXPECT_EQ(shared.last_bits.back(), LayerBits{});  // the linear layer
  EXPECT_DOUBLE_EQ(shared.totals.mean_bits.w, (21 * 6.0 + 32.0) / 22.0);
  const CostEstimate wide = estimate_cost(request("static", "8/8/16", "resnet20-cifar"));
  EXPECT_NEAR(wide.totals.ratio_fw8bw8, (64.0 + 2 * 128.0) / 192.0, 1e-12);
  EXPECT_DOUBLE_EQ(wide.totals.mean_bits_by_macs.dy, 16.0);
}

TEST(CostEstimate, SbmCostsWhatItsOptionsSay) {
  const CostEstimate released = estimate_cost(request("sbm", "", "resnet20-cifar"));
  EXPECT_NEAR(released.totals.ratio_fw8bw8, (64.0 + 64.0 + 8.0 * 32.0) / 192.0, 1e-12);  // WTGRAD in float32
  EXPECT_DOUBLE_EQ(released.totals.mean_bits.dy, 20.0);
}

TEST(CostEstimate, RandomBitsCostTheirExpectation) {
  const CostEstimate fixed = estimate_cost(request("random", "4,6,8/8", "resnet38-cifar"));
  EXPECT_NEAR(fixed.totals.gbitops, 1.0998e8, 1e4);
  const CostEstimate same = estimate_cost(request("random", "4,6,8/same", "resnet38-cifar"));
  EXPECT_NEAR(same.totals.gbitops, 1.0275e8, 1e4);
}

TEST(CostEstimate, RotatedBitsOfLdpCostWhatItsTableSays) {
  for (const char* table : {"ldp-1", "ldp-2", "ldp-3"}) {
    const double gbitops = estimate_cost(request("schedule", table, "resnet38-cifar")).totals.gbitops;
    EXPECT_NEAR(gbitops, 1.101e8, 5e4) << table;
  }
  EXPECT_THROW(estimate_cost(request("schedule", "", "resnet38-cifar")), Error);
  EXPECT_THROW(estimate_cost(request("schedule", "nowhere.toml", "resnet38-cifar")), Error);
}

TEST(CostEstimate, PfqNeedsItsSwitches) {
  CostRequest pfq = request("pfq", "3,4,6,8/6,6,8,8", "resnet20-cifar");
  EXPECT_THROW(estimate_cost(pfq), Error);
  pfq.switches = {8000, 16000, 24000};
  const double expected = (8000 * 0.234375 + 8000 / 3.0 + 8000 * 0.6875 + 40000) / 64000;
  EXPECT_NEAR(estimate_cost(pfq).totals.ratio_fw8bw8, expected, 1e-9);
  pfq.switches = {16000, 8000, 24000};
  EXPECT_THROW(estimate_cost(pfq), Error);
}

TEST(CostEstimate, Float32IsSixteenTimesEightBits) {
  const CostEstimate estimate = estimate_cost(request("float32", "", "lenet5", 10));
  EXPECT_NEAR(estimate.totals.ratio_fw8bw8, 16.0, 1e-12);
  EXPECT_NEAR(estimate.totals.ratio_float32, 1.0, 1e-12);
  EXPECT_NEAR(estimate.totals.ratio_fw8bw8_actual, 16.0, 1e-12);
}

TEST(CostEstimate, WhatOnlyDataCanTellIsAnError) {
  const auto message = [](const CostRequest& wanted) {
    try {
      estimate_cost(wanted);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(message(request("apt", "", "lenet5", 10)).find("--run"), std::string::npos);
  EXPECT_NE(message(request("atp", "", "lenet5", 10)).find("did you mean"), std::string::npos);
  for (const char* bits : {"3-8", "3-8/", "8/8", "a-b/8", "1-8/8", "3-4-8/8"})
    EXPECT_NE(message(request("cpt", bits, "lenet5", 10)), "") << bits;
}

}  // namespace
}  // namespace bitdial::train
