#include "bitdial/policies/cpt.h"

#include <gtest/gtest.h>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

std::shared_ptr<Policy> attached_cpt(const std::string& spec, const json& options = json::object()) {
  auto policy = make(spec, options);
  policy->attach(std::vector<LayerInfo>{{.name = "conv1", .kernel = 3, .is_first = true},
                                        {.name = "conv2", .kernel = 3},
                                        {.name = "dw", .kind = LayerKind::kDepthwiseConv2d, .kernel = 3},
                                        {.name = "fc", .kind = LayerKind::kLinear, .is_last = true}});
  return policy;
}

int forward_bits(Policy& policy, int64_t t, int64_t T, int layer = 0) {
  VectorProbe probe({1.0F});
  const StepInfo step{.step = t, .total_steps = T};
  policy.begin_step(step);
  return policy.plan({layer, TensorRole::kWeight}, step, probe).format.word_length;
}

struct Vector {
  std::string bounds;
  std::vector<std::pair<int, int>> first;  // level, first index inside a cycle
  double mean, mean_of_squares;
};

// specs/cpt.md, "Schedule vectors, P = 2000", exact.
TEST(Cpt, ScheduleOfTwoThousandIterations) {
  const std::vector<Vector> vectors{
      {"3-8/8", {{3, 0}, {4, 410}, {5, 739}, {6, 1000}, {7, 1262}, {8, 1591}}, 5.4990, 33.604},
      {"4-8/8", {{4, 0}, {5, 461}, {6, 840}, {7, 1161}, {8, 1540}}, 5.9990, 38.209},
      {"3-6/6", {{3, 0}, {4, 536}, {5, 1001}, {6, 1465}}, 4.4990, 21.562},
      {"4-6/6", {{4, 0}, {5, 667}, {6, 1334}}, 4.9995, 25.6615},
      {"3-4/6", {{3, 0}, {4, 1000}}, 3.5, 12.5},
      {"5-8/8", {{5, 0}, {6, 536}, {7, 1001}, {8, 1465}}, 6.4990, 43.558},
      {"5-6/8", {{5, 0}, {6, 1000}}, 5.5, 30.5}};
  for (const Vector& vector : vectors) {
    const auto policy = attached_cpt("cpt:" + vector.bounds);
    std::vector<std::pair<int, int>> first;
    double sum = 0.0, squares = 0.0;
    for (int t = 0; t < 2000; ++t) {
      const int bits = forward_bits(*policy, 2000 + t, 64000);
      if (first.empty() || first.back().first != bits) first.emplace_back(bits, t);
      sum += bits;
      squares += bits * bits;
    }
    EXPECT_EQ(first, vector.first) << vector.bounds;
    EXPECT_DOUBLE_EQ(sum / 2000.0, vector.mean) << vector.bounds;
    EXPECT_DOUBLE_EQ(squares / 2000.0, vector.mean_of_squares) << vector.bounds;
  }
}

TEST(Cpt, EndsAtBmaxAndStartsTheRemainderAtBmin) {
  const auto policy = attached_cpt("cpt");
  EXPECT_EQ(forward_bits(*policy, 63999, 64000), 8);
  // 120 epochs of 5005 iterations: P = 18768, 24 iterations are left.
  EXPECT_EQ(forward_bits(*policy, 32 * 18768 - 1, 600600), 8);
  EXPECT_EQ(forward_bits(*policy, 32 * 18768, 600600), 3);
  EXPECT_EQ(forward_bits(*policy, 600599, 600600), 3);
  const auto own = attached_cpt("cpt", {{"iterations", 64000}});
  EXPECT_EQ(forward_bits(*own, 410, 100), 4) << "T is the option's";
}

TEST(Cpt, LayersAndOperands) {
  const auto policy = attached_cpt("cpt:3-8/6");
  VectorProbe probe({1.0F});
  const StepInfo step{.step = 1999, .total_steps = 64000};
  policy->begin_step(step);
  const auto format = [&](int layer, TensorRole role) {
    return policy->plan({layer, role}, step, probe).format;
  };
  EXPECT_EQ(format(0, TensorRole::kInput), shared_format(TensorRole::kInput, 8));
  EXPECT_EQ(format(1, TensorRole::kInputWtgrad), shared_format(TensorRole::kInput, 8));
  EXPECT_EQ(format(1, TensorRole::kGradBprop), shared_format(TensorRole::kGradBprop, 6));
  EXPECT_EQ(format(1, TensorRole::kGradWtgrad), shared_format(TensorRole::kGradBprop, 6));
  EXPECT_EQ(format(2, TensorRole::kWeight).word_length, 8);
  EXPECT_EQ(format(2, TensorRole::kGradBprop).word_length, 16);
  EXPECT_TRUE(format(3, TensorRole::kWeight).is_float());
  EXPECT_EQ(probe.measures, 0);
}

TEST(Cpt, GradientBitsCycleBetweenTheirOwnBounds) {
  const auto policy = attached_cpt("cpt:3-8/6-8");
  VectorProbe probe({1.0F});
  const auto gradient = [&](int64_t t) {
    const StepInfo step{.step = t, .total_steps = 64000};
    policy->begin_step(step);
    return policy->plan({0, TensorRole::kGradBprop}, step, probe).format.word_length;
  };
  EXPECT_EQ(gradient(0), 6);
  EXPECT_EQ(gradient(1000), 7);
  EXPECT_EQ(gradient(1999), 8);
}

TEST(Cpt, EvaluatesAtTheCurrentAndAtTheFinalPrecision) {
  const auto policy = attached_cpt("cpt");
  EXPECT_TRUE(policy->has_final_precision());
  forward_bits(*policy, 739, 64000);
  EXPECT_EQ(policy->evaluation_format({0, TensorRole::kWeight}).word_length, 5);
  EXPECT_EQ(policy->final_evaluation_format({0, TensorRole::kWeight}).word_length, 8);
  EXPECT_EQ(policy->final_evaluation_format({2, TensorRole::kWeight}).word_length, 8);
  EXPECT_TRUE(policy->final_evaluation_format({3, TensorRole::kWeight}).is_float());
  const auto six = attached_cpt("cpt", {{"final_eval_bits", 6}});
  EXPECT_EQ(six->final_evaluation_format({0, TensorRole::kWeight}).word_length, 6);
}

TEST(Cpt, UpToThirtyTwoBits) {
  const auto policy = attached_cpt("cpt:8-32/8");
  EXPECT_EQ(forward_bits(*policy, 0, 64000), 8);
  EXPECT_EQ(forward_bits(*policy, 1999, 64000), 32);
  const Format format = policy->evaluation_format({0, TensorRole::kInput});
  EXPECT_EQ(format.word_length, 32);
  EXPECT_FALSE(format.is_float()) << "fixed-point values, carried in float32";
  EXPECT_FALSE(has_integer_codes(format));
}

TEST(Cpt, LogsEveryChangeAndWhatWtgradRunsOn) {
  const auto policy = attached_cpt("cpt:8-32/8");
  VectorProbe probe({1.0F});
  const auto reason = [&](int64_t t, TensorRole role) {
    const StepInfo step{.step = t, .total_steps = 64000};
    policy->begin_step(step);
    const TensorPlan plan = policy->plan({0, role}, step, probe);
    EXPECT_EQ(plan.reason.empty(), plan.evidence.is_null());
    return plan.reason;
  };
  EXPECT_EQ(reason(0, TensorRole::kWeight), "cycle 1 of 32, iteration 0 of 2000");
  EXPECT_EQ(reason(1, TensorRole::kWeight), "");
  EXPECT_NE(reason(1, TensorRole::kGradBprop), "");
  EXPECT_EQ(reason(2, TensorRole::kGradBprop), "");
  EXPECT_EQ(reason(1999, TensorRole::kWeight), "cycle 1 of 32, iteration 1999 of 2000");
  EXPECT_NE(reason(1999, TensorRole::kGradBprop), "") << "8 bits still, but WTGRAD is now in float32";
}

TEST(Cpt, StateInTheMiddleOfACycle) {
  const auto policy = attached_cpt("cpt");
  forward_bits(*policy, 1262, 64000);
  const auto copy = attached_cpt("cpt");
  copy->load_state(json::parse(policy->state().dump()));
  EXPECT_EQ(copy->state(), policy->state());
  EXPECT_EQ(copy->evaluation_format({0, TensorRole::kWeight}).word_length, 7);
  VectorProbe probe({1.0F});
  for (int64_t t = 1263; t < 2100; ++t) {
    const StepInfo step{.step = t, .total_steps = 64000};
    policy->begin_step(step), copy->begin_step(step);
    const TensorPlan left = policy->plan({0, TensorRole::kInput}, step, probe);
    const TensorPlan right = copy->plan({0, TensorRole::kInput}, step, probe);
    ASSERT_EQ(left.format, right.format) << t;
    ASSERT_EQ(left.reason, right.reason) << t;
  }
}

TEST(Cpt, Errors) {
  for (const char* bad :
       {"cpt:", "cpt:8", "cpt:3-8", "cpt:8-3/8", "cpt:1-8/8", "cpt:3-33/8", "cpt:3-8/x", "cpt:a"}) {
    EXPECT_THROW(make(bad), Error) << bad;
  }
  EXPECT_THROW(make("cpt", {{"iterations", 31}}), Error);
  EXPECT_THROW(make("cpt", {{"final_eval_bits", 7.5}}), Error);
  const auto policy = attached_cpt("cpt");
  EXPECT_THROW(policy->begin_step({.step = 0, .total_steps = 31}), Error) << "32 cycles in 31 steps";
  EXPECT_NO_THROW(policy->begin_step({.step = 0, .total_steps = 32}));
}

}  // namespace
}  // namespace bitdial::policies
