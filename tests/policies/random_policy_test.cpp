#include "bitdial/policies/random_policy.h"

#include <gtest/gtest.h>

#include <map>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

constexpr int64_t kRandomTotal = 64000;

std::shared_ptr<RandomPolicy> attached_random(const json& options = json::object()) {
  auto policy = std::dynamic_pointer_cast<RandomPolicy>(make("random", options));
  policy->attach(std::vector<LayerInfo>{{.name = "conv1"}, {.name = "conv2"}});
  return policy;
}

// LDP, Table 2: random for 90 of 160 epochs, then 8.
TEST(RandomBits, DrawsEveryKIterationsAndEndsWithEightBits) {
  const auto policy = attached_random();
  std::map<int, int> counts;
  for (int64_t t = 0; t < 36000; ++t) {
    const int bits = policy->bits(t, kRandomTotal, 0);
    EXPECT_EQ(bits, policy->bits(t / 10 * 10, kRandomTotal, 0)) << t;
    EXPECT_EQ(bits, policy->bits(t, kRandomTotal, 1)) << "one draw for the network";
    ++counts[bits];
  }
  ASSERT_EQ(counts.size(), 3U);
  // 3600 draws of three: 12000 iterations each, standard deviation 283.
  for (const int bits : {4, 6, 8}) EXPECT_NEAR(counts[bits], 12000, 1200) << bits;
  for (const int64_t t : {36000, 50000, 63999}) EXPECT_EQ(policy->bits(t, kRandomTotal, 0), 8) << t;
}

// specs/ldp.md: relative to static 8/8, 1.0998 / 1.3218 with 8-bit gradients and 1.0275 / 1.3218 with the
// same bits; a single draw with k = 1 scatters by 0.1 %.
TEST(RandomBits, CostOfBothReadings) {
  const auto cost = [](const json& options) {
    const auto policy = attached_random(options);
    VectorProbe probe({1.0F});
    double sum = 0.0;
    for (int64_t t = 0; t < kRandomTotal; ++t) {
      policy->begin_step({.step = t, .total_steps = kRandomTotal});
      const double b = policy->evaluation_format({0, TensorRole::kInput}).word_length;
      const double g = policy->evaluation_format({0, TensorRole::kGradBprop}).word_length;
      sum += b * b + 2.0 * b * g;
    }
    return 1.3218 * sum / (192.0 * static_cast<double>(kRandomTotal));
  };
  EXPECT_NEAR(cost({{"every", 1}}), 1.0998, 0.005);
  EXPECT_NEAR(cost({{"every", 1}, {"gradient", "same"}}), 1.0275, 0.006);
}

TEST(RandomBits, Options) {
  const auto layers = attached_random({{"scope", "layer"}, {"every", 1}});
  int different = 0;
  for (int64_t t = 0; t < 300; ++t) {
    different += int{layers->bits(t, kRandomTotal, 0) != layers->bits(t, kRandomTotal, 1)};
  }
  EXPECT_NEAR(different, 200, 40);
  const auto other = attached_random({{"seed", 1}}), same = attached_random({{"seed", 1}});
  const auto first = attached_random();
  int changed = 0;
  for (int64_t t = 0; t < 3000; t += 10) {
    EXPECT_EQ(other->bits(t, kRandomTotal, 0), same->bits(t, kRandomTotal, 0));
    changed += int{other->bits(t, kRandomTotal, 0) != first->bits(t, kRandomTotal, 0)};
  }
  EXPECT_GT(changed, 100);
  EXPECT_THROW(make("random", {{"bits", json::array()}}), Error);
  EXPECT_THROW(make("random", {{"bits", {4, 1}}}), Error);
}

TEST(RandomBits, StateInTheMiddle) {
  const auto policy = attached_random();
  VectorProbe probe({1.0F});
  const auto bits = [&](Policy& from, int64_t t) {
    const StepInfo step{.step = t, .total_steps = 400};
    from.begin_step(step);
    const TensorPlan plan = from.plan({0, TensorRole::kWeight}, step, probe);
    return std::pair{plan.format.word_length, plan.reason};
  };
  for (int64_t t = 0; t < 125; ++t) bits(*policy, t);
  const auto copy = attached_random();
  copy->load_state(json::parse(policy->state().dump()));
  EXPECT_EQ(copy->evaluation_format({0, TensorRole::kWeight}),
            policy->evaluation_format({0, TensorRole::kWeight}));
  for (int64_t t = 125; t < 300; ++t) ASSERT_EQ(bits(*policy, t), bits(*copy, t)) << t;
  EXPECT_EQ(policy->evaluation_format({0, TensorRole::kWeight}).word_length, 8);
}

}  // namespace
}  // namespace bitdial::policies
