#include "bitdial/train/plan.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"

namespace bitdial::train {
namespace {

// Every piece of work takes a millisecond.
cost::KernelTable flat_table() {
  return cost::KernelTable({}, {"cpu", "isa", 2, "1"}, [](const std::function<void()>&, double) {
    return cost::Timing{1e-3, true};
  });
}

models::LayerRow conv_row(int64_t in, int64_t out, int64_t groups) {
  models::LayerRow row;
  row.name = "conv";
  row.kind = "conv2d";
  row.input = {in, 9, 9};
  row.output = {out, 5, 5};
  row.kernel = 3;
  row.stride = 2;
  row.padding = 1;
  row.macs = out * 25 * 9 * in / groups;
  return row;
}

TEST(GemmShape, FollowsTheLayerTable) {
  for (const auto& [in, out, groups] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{8, 6, 1}, {8, 6, 2}, {8, 8, 8}, {8, 16, 8}}) {
    const kernels::ConvShape shape = gemm_shape(conv_row(in, out, groups), 7);
    EXPECT_EQ(shape.batch, 7);
    EXPECT_EQ(shape.groups, groups);
    EXPECT_EQ(shape.out_height(), 5);
    EXPECT_EQ(shape.stride_width, 2);
  }
  models::LayerRow wrong = conv_row(8, 6, 1);
  wrong.stride = 1;
  EXPECT_THROW(gemm_shape(wrong, 7), Error);
}

TEST(GemmShape, EveryNetworkOfTheZoo) {
  for (const std::string_view name : models::names()) {
    if (name.ends_with("imagenet")) continue;  // large, and made of the same layers
    for (const models::LayerRow& row : models::layer_table(name)) {
      if (has_gemms(row)) {
        EXPECT_EQ(gemm_shape(row, 3).macs(), 3 * row.macs) << name << " " << row.name;
      }
    }
  }
}

TEST(Plan, AddsUpItsLayers) {
  auto table = flat_table();
  int64_t measured = 0;
  const auto rows = models::layer_table("resnet20-cifar");
  const StepPlan plan = plan_step(rows, 4, table, [&](int64_t done, int64_t) { measured = done; });
  ASSERT_EQ(plan.layers.size(), 22U);  // 20 layers and 2 shortcuts
  EXPECT_EQ(plan.layers[0].gemms.size(), 2U);
  EXPECT_EQ(plan.layers[1].gemms.size(), 3U);
  EXPECT_LT(measured, 22 * 12) << "equal layers are measured once";
  EXPECT_GT(measured, 30);
  double sum = 0.0;
  for (const LayerPlan& layer : plan.layers) {
    sum += layer.seconds;
    EXPECT_GE(layer.seconds, 1e-3 * static_cast<double>(layer.gemms.size()));
    for (const GemmPlan& gemm : layer.gemms) {
      for (const double seconds : gemm.seconds) EXPECT_EQ(seconds, 1e-3);
    }
  }
  EXPECT_DOUBLE_EQ(plan.layer_seconds, sum);
  EXPECT_DOUBLE_EQ(plan.step_seconds(), plan.layer_seconds + plan.other_seconds);
  EXPECT_GT(plan.uniform_seconds[3], 65e-3)
      << "float32: 22 * 3 - 1 GEMMs and the passes from and to bfloat16";
  EXPECT_LE(plan.layer_seconds, plan.uniform_seconds[0]);
  EXPECT_EQ(plan.uncertain, 0);
}

TEST(Plan, CountsBytesOnce) {
  auto table = flat_table();
  std::vector<models::LayerRow> rows{conv_row(8, 6, 1)};
  const StepPlan plan = plan_step(rows, 2, table);
  const int64_t x = 2 * 81 * 8, w = 6 * 9 * 8, y = 2 * 25 * 6;
  // The same time for all, and the fewest passes for int8: FPROP reads X and W and writes Y, WTGRAD X and dY
  // and dW.
  EXPECT_EQ(plan.layers[0].gemms[0].choice, GemmArithmetic::kInt8);
  EXPECT_EQ(plan.layers[0].bytes, (x + w + 4 * y) + (x + y + 4 * w));
}

TEST(Plan, AsJson) {
  auto table = flat_table();
  const auto rows = models::layer_table("lenet5");
  const auto json = to_json(plan_step(rows, 4, table), "lenet5", 4, table.machine());
  EXPECT_EQ(json.at("layers").at(1).at("gemms").at(2).at("gemm"), "WTGRAD");
  EXPECT_EQ(json.at("layers").at(1).at("gemms").at(2).at("ms").at("int8"), 1.0);
  EXPECT_EQ(json.at("layers").at(1).at("problem"), "mb4ic6ih14oc16oh10kh5");
  EXPECT_EQ(json.at("machine").at("threads"), 2);
}

}  // namespace
}  // namespace bitdial::train
