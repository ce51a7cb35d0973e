#include "bitdial/train/gemm_log.h"

#include <gtest/gtest.h>

namespace bitdial::train {
namespace {

TEST(GemmLog, SharesOfAStepAreByMultiplyAccumulates) {
  cost::NetworkCharge network;
  network.layers.resize(2);
  network.layers[0].name = "first";
  network.layers[0].macs = 100;
  network.layers[1].name = "second";
  network.layers[1].macs = 300;
  GemmLog log(network);
  EXPECT_EQ(log.now().floating, 1.0);  // nothing ran yet
  const std::vector<nn::LayerArithmetic> before{{"int8", "", "float32"}, {"int8", "int8xint16", "int16"}};
  EXPECT_EQ(log.add(0, before).size(), 5U);
  EXPECT_DOUBLE_EQ(log.now().int8, 400.0 / 1100.0);
  EXPECT_DOUBLE_EQ(log.now().int16, 600.0 / 1100.0);
  EXPECT_DOUBLE_EQ(log.now().floating, 100.0 / 1100.0);
  // The options of a gate differ: the widest counts. What ran before does not.
  const std::vector<nn::LayerArithmetic> after{{"int8", "", "bfloat16"}, {"int8", "int8,int8xint16", "int8"}};
  EXPECT_EQ(log.add(1, after).size(), 3U);
  EXPECT_DOUBLE_EQ(log.now().int8, 700.0 / 1100.0);
  EXPECT_DOUBLE_EQ(log.now().int16, 300.0 / 1100.0);
  EXPECT_DOUBLE_EQ(log.now().floating, 100.0 / 1100.0);
}

}  // namespace
}  // namespace bitdial::train
