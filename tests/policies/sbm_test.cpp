#include "bitdial/policies/sbm.h"

#include <gtest/gtest.h>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

std::shared_ptr<Policy> attached_sbm(const json& options = json::object()) {
  auto policy = make("sbm", options);
  policy->attach(std::vector<LayerInfo>{{.name = "conv1"}, {.name = "fc", .kind = LayerKind::kLinear}});
  return policy;
}

// specs/sbm.md, "SBM proper".
TEST(Sbm, VersionsOfTheCode) {
  const auto b3 = attached_sbm();
  const auto format = [](const std::shared_ptr<Policy>& policy, TensorRole role) {
    return policy->evaluation_format({0, role});
  };
  EXPECT_EQ(format(b3, TensorRole::kWeight),
            (Format{.rule = ScaleRule::kAffine, .word_length = 8, .granularity = Granularity::kChannel}));
  const Format x{
      .rule = ScaleRule::kAffine, .word_length = 8, .range_statistic = RangeStatistic::kSampleMean};
  EXPECT_EQ(format(b3, TensorRole::kInput), x);
  EXPECT_EQ(format(b3, TensorRole::kInputWtgrad), x);
  EXPECT_EQ(format(b3, TensorRole::kGradBprop),
            (Format{.rule = ScaleRule::kAffine, .word_length = 8, .rounding = Rounding::kStochastic}));
  EXPECT_TRUE(format(b3, TensorRole::kGradWtgrad).is_float());
  EXPECT_FALSE(b3->evaluation_format({1, TensorRole::kWeight}).is_float()) << "the last layer too";
  EXPECT_EQ(b3->normalization(), Normalization::kRange);
  EXPECT_EQ(b3->between(), Between::kFloat32);
  const RunningRange running = b3->running_range({0, TensorRole::kInput});
  EXPECT_EQ(running.momentum, 0.1);
  EXPECT_TRUE(running.start_at_zero);
  EXPECT_EQ(b3->running_range({0, TensorRole::kWeight}).momentum, 0.0);

  const auto b1 = attached_sbm({{"version", "b1"}, {"act_rounding", "SR"}});
  EXPECT_EQ(format(b1, TensorRole::kWeight), (Format{.rule = ScaleRule::kAffine, .word_length = 8}));
  EXPECT_EQ(format(b1, TensorRole::kInput).rounding, Rounding::kStochastic);
  EXPECT_EQ(format(attached_sbm({{"version", "b1"}}), TensorRole::kInput).rounding, Rounding::kNearestEven)
      << "B1's stochastic rounding is an accident: our default is nearest";
}

TEST(Sbm, GradientOfWtgrad) {
  const auto format = [](const json& options) {
    return attached_sbm(options)->evaluation_format({0, TensorRole::kGradWtgrad});
  };
  EXPECT_EQ(format({{"gradient_wtgrad", "int16"}}),
            (Format{.rule = ScaleRule::kAffine, .word_length = 16, .rounding = Rounding::kStochastic}));
  EXPECT_EQ(format({{"biprecision", "off"}}).word_length, 8);
  EXPECT_EQ(attached_sbm({{"normalization", "batch"}})->normalization(), Normalization::kBatch);
  EXPECT_FALSE(
      attached_sbm({{"running_start", "first_value"}})->running_range({0, TensorRole::kInput}).start_at_zero);
}

TEST(Sbm, AnnouncesEachOperandOnce) {
  VectorProbe probe({1.0F});
  const auto first = attached_sbm(), second = attached_sbm();
  EXPECT_EQ(first->plan({0, TensorRole::kWeight}, {.training = false}, probe).reason, "");
  EXPECT_EQ(first->plan({0, TensorRole::kWeight}, {}, probe).reason, "fixed by sbm");
  EXPECT_EQ(first->plan({0, TensorRole::kWeight}, {.step = 1}, probe).reason, "");
  second->load_state(json::parse(first->state().dump()));
  EXPECT_EQ(second->plan({0, TensorRole::kWeight}, {.step = 2}, probe).reason, "");
  EXPECT_NE(second->plan({1, TensorRole::kWeight}, {.step = 2}, probe).reason, "");
  EXPECT_THROW(second->load_state({{"announced", json::array()}}), Error);
  EXPECT_EQ(probe.measures, 0);
}

}  // namespace
}  // namespace bitdial::policies
