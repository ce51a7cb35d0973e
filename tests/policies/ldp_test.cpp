#include "bitdial/policies/ldp.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string_view>

#include "bitdial/core/error.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

constexpr StepInfo kStep{.step = 0, .steps_per_epoch = 10, .total_steps = 100};

// ResNet-20 for 10 classes in registration order: 2359296 MACs in every 3x3 convolution inside a stage.
std::vector<LayerInfo> resnet20_layers() {
  std::vector<LayerInfo> layers{{.name = "conv1", .macs = 442368, .kernel = 3, .is_first = true}};
  for (int stage = 1; stage <= 3; ++stage) {
    for (int block = 0; block < 3; ++block) {
      const bool narrows = stage > 1 && block == 0;
      const auto name = [&](const char* layer) { return fmt::format("layer{}.{}.{}", stage, block, layer); };
      layers.push_back({.name = name("conv1"), .macs = narrows ? 1179648 : 2359296, .kernel = 3});
      layers.push_back({.name = name("conv2"), .macs = 2359296, .kernel = 3});
      if (narrows) layers.push_back({.name = name("downsample.0"), .macs = 131072, .kernel = 1, .stride = 2});
    }
  }
  layers.push_back({.name = "fc", .kind = LayerKind::kLinear, .macs = 640, .is_last = true});
  return layers;
}

std::vector<LayerInfo> two_layers() {
  return {{.name = "a", .macs = 300, .kernel = 3}, {.name = "b", .macs = 100, .kernel = 3}};
}

std::shared_ptr<LdpPolicy> make_ldp(const json& options, const std::vector<LayerInfo>& layers) {
  OptionReader reader("ldp", options);
  auto policy = std::make_shared<LdpPolicy>(reader);
  reader.finish();
  policy->attach(layers);
  return policy;
}

int bits_of_layer(const LdpPolicy& policy, int layer, TensorRole role = TensorRole::kWeight) {
  return policy.evaluation_format({.layer = layer, .role = role}).word_length;
}

// What backward reports when dL/dbeta is to be `wanted`, through a tensor of range 1.
void report(LdpPolicy& policy, int layer, double wanted, TensorRole role = TensorRole::kInput) {
  const int bits = bits_of_layer(policy, layer);
  const auto step = static_cast<float>(1.0 / (std::ldexp(1.0, bits) - 1.0));
  const double by_bits = ldp::step_by_bits(static_cast<double>(step), bits);
  const double width = policy.options()["max_bits"].get<int>() - policy.options()["min_bits"].get<int>();
  policy.observe_step_gradients(
      {.layer = layer, .role = role}, kStep,
      {.by_step = {wanted / by_bits / width}, .params = {{.scale = step}}, .word_length = bits});
}

double task_of(const LdpPolicy& policy, size_t layer) { return policy.state()["layers"][layer][1]; }
double penalty_of(const LdpPolicy& policy, size_t layer) { return policy.state()["layers"][layer][2]; }

TEST(Ldp, StartsAtBminAndLeavesGradientsAlone) {
  const auto policy = make_ldp({{"gradient_bits", 12}, {"layers", "cifar"}}, resnet20_layers());
  for (const TensorRole role : {TensorRole::kWeight, TensorRole::kInput, TensorRole::kInputWtgrad}) {
    EXPECT_EQ(bits_of_layer(*policy, 5, role), 3);
  }
  EXPECT_EQ(bits_of_layer(*policy, 5, TensorRole::kGradBprop), 12);
  EXPECT_TRUE(policy->evaluation_format({.layer = 21, .role = TensorRole::kInput}).is_float()) << "fc";
  EXPECT_TRUE(policy->step_gradients(0).has_value()) << "the first layer learns, too";
  EXPECT_FALSE(policy->step_gradients(21).has_value());
  EXPECT_NEAR(make_ldp({}, resnet20_layers())->cost(), 0.297, 0.0005);
  EXPECT_NEAR(make_ldp({{"cost_scope", "fw"}}, resnet20_layers())->cost(), 9.0 / 64, 0.0005);
}

TEST(Ldp, BetaMovesByPlainSgd) {
  const auto policy = make_ldp({{"lr_beta", 0.5}}, two_layers());
  report(*policy, 0, -0.3);
  report(*policy, 0, -0.2, TensorRole::kWeight);
  report(*policy, 1, 0.1);
  policy->end_step(kStep, {});
  EXPECT_NEAR(policy->beta(0), 0.25, 1e-9);
  EXPECT_NEAR(policy->beta(1), -0.05, 1e-9);
  EXPECT_EQ(penalty_of(*policy, 0), 0.0) << "3 bits cost 0.297";
  EXPECT_EQ(bits_of_layer(*policy, 0), 4);
  report(*policy, 0, -1.0);
  policy->end_step(kStep, {});
  EXPECT_NEAR(policy->beta(0), 0.75, 1e-9) << "each step has its own gradient";
  EXPECT_NEAR(policy->beta(1), -0.05, 1e-9) << "without a backward nothing moves";
}

TEST(Ldp, ScalesAddUpByTheirOwnSteps) {
  const auto policy = make_ldp({}, two_layers());
  const std::vector<QuantParams> params{{.scale = 0.25F}, {.scale = 1e-8F}, {.scale = 0.5F}};
  policy->observe_step_gradients({.layer = 0, .role = TensorRole::kWeight}, kStep,
                                 {.by_step = {2.0, 3.0, -4.0}, .params = params, .word_length = 3});
  policy->end_step(kStep, {});
  const double expected = 5.0 * (2.0 * ldp::step_by_bits(0.25, 3) - 4.0 * ldp::step_by_bits(0.5, 3));
  EXPECT_NEAR(task_of(*policy, 0), expected, 1e-12);
}

TEST(Ldp, PenaltyBalancesTheTaskFromTheLimitOn) {
  for (const char* form : {"structure", "eq4"}) {
    const auto policy = make_ldp({{"beta0", 0.6}, {"cost_grad", form}, {"lr_beta", 1.0}}, two_layers());
    ASSERT_EQ(bits_of_layer(*policy, 0), 6);
    ASSERT_GE(policy->cost(), 0.6);
    report(*policy, 0, -0.03);
    report(*policy, 1, 0.01);
    policy->end_step(kStep, {});
    EXPECT_NEAR((penalty_of(*policy, 0) + penalty_of(*policy, 1)) / 2, 0.02, 1e-6);
    EXPECT_NEAR(penalty_of(*policy, 0) / penalty_of(*policy, 1), 3.0, 1e-9) << "MACs 300 : 100, equal bits";
    EXPECT_NEAR(policy->beta(0), 0.6 + 0.03 - penalty_of(*policy, 0), 1e-9);
  }
  // At the limit itself the penalty counts (paper), just below it does not.
  for (const auto& [limit, penalised] : {std::pair(0.6875, true), std::pair(0.6876, false)}) {
    const auto policy = make_ldp({{"beta0", 0.6}, {"T", limit}}, two_layers());
    report(*policy, 0, -0.03);
    policy->end_step(kStep, {});
    EXPECT_EQ(penalty_of(*policy, 0) != 0.0, penalised);
  }
}

TEST(Ldp, MeanOfTheTaskGradientMayBeAMovingAverage) {
  const auto policy = make_ldp({{"beta0", 0.6}, {"gT_mean", "ema"}, {"lr_beta", 1e-6}}, two_layers());
  const auto mean_penalty = [&](double task) {
    report(*policy, 0, task);
    report(*policy, 1, task);
    policy->end_step(kStep, {});
    return (penalty_of(*policy, 0) + penalty_of(*policy, 1)) / 2;
  };
  EXPECT_NEAR(mean_penalty(0.02), 0.02, 1e-6);
  EXPECT_NEAR(mean_penalty(0.04), 0.9 * 0.02 + 0.1 * 0.04, 1e-6);
}

TEST(Ldp, BetaIsResetAfterAnEpochOrClampedAtEveryStep) {
  const auto push = [](LdpPolicy& policy) {
    report(policy, 0, -2.0);
    report(policy, 1, 2.0);
    policy.end_step(kStep, {});
  };
  const auto faithful = make_ldp({{"lr_beta", 1.0}}, two_layers());
  push(*faithful);
  EXPECT_NEAR(faithful->beta(0), 2.0, 1e-9);
  EXPECT_EQ(bits_of_layer(*faithful, 0), 8);
  faithful->end_epoch({});
  EXPECT_EQ(faithful->beta(0), 1.0);
  EXPECT_EQ(faithful->beta(1), 0.0);
  const auto clamped = make_ldp({{"lr_beta", 1.0}, {"clamp", "step"}}, two_layers());
  push(*clamped);
  EXPECT_EQ(clamped->beta(0), 1.0);
  EXPECT_EQ(clamped->beta(1), 0.0);
}

// Task gradients that ask for more bits and fade with the step, as in training: the cost rises to the limit,
// then the penalty holds it there.
TEST(Ldp, CostRisesToTheLimitAndStays) {
  for (const auto& [form, scope] : {std::pair("structure", "fw+bw"), {"eq4", "fw+bw"}, {"structure", "fw"}}) {
    const auto policy =
        make_ldp({{"lr_beta", 0.05}, {"cost_grad", form}, {"cost_scope", scope}}, resnet20_layers());
    double sum = 0.0;
    int steps = 0;
    for (int step = 0; step < 1500; ++step) {
      for (int layer = 0; layer < 21; ++layer) {
        report(*policy, layer, -0.2 * std::ldexp(1.0 + 0.3 * (layer % 5), -bits_of_layer(*policy, layer)));
      }
      policy->end_step(kStep, {});
      if (steps == 0 && policy->cost() < 0.6) continue;
      ASSERT_GE(policy->cost(), 0.55) << step;
      ASSERT_LE(policy->cost(), 0.66) << step;
      sum += policy->cost();
      ++steps;
    }
    ASSERT_GT(steps, 250);
    // One bit more or less moves the forward cost alone by more.
    EXPECT_NEAR(sum / steps, 0.59, std::string_view(scope) == "fw" ? 0.05 : 0.03) << form << " " << scope;
  }
}

TEST(Ldp, LogsTheNumbersBehindEachChange) {
  const auto policy = make_ldp({{"lr_beta", 1.0}}, two_layers());
  VectorProbe probe({-1.0F, 1.0F});
  const TensorId weight{.layer = 0, .role = TensorRole::kWeight};
  EXPECT_EQ(policy->plan(weight, kStep, probe).evidence.at("beta"), 0.0);
  EXPECT_TRUE(policy->plan(weight, kStep, probe).reason.empty());
  report(*policy, 0, -0.3);
  policy->end_step(kStep, {});
  const TensorPlan plan = policy->plan(weight, kStep, probe);
  EXPECT_EQ(plan.reason, "beta 0.3000 stands for 4 bits");
  EXPECT_NEAR(plan.evidence.at("dL_dbeta").get<double>(), -0.3, 1e-9);
  EXPECT_EQ(plan.evidence.at("penalty"), 0.0);
  EXPECT_NEAR(plan.evidence.at("cost").get<double>(), 0.296875, 1e-12);
  const auto all = make_ldp({{"log_all", true}}, two_layers());
  all->plan(weight, kStep, probe);
  EXPECT_EQ(all->plan(weight, kStep, probe).reason, "beta moved");
}

TEST(Ldp, StateIsRestoredExactly) {
  const json options = {{"lr_beta", 0.7}, {"beta0", 0.5}, {"gT_mean", "ema"}};
  const auto run = [](LdpPolicy& policy, int from, int to) {
    for (int step = from; step < to; ++step) {
      report(policy, 0, -0.1 / (step + 1));
      report(policy, 1, 0.03 * (step - 3));
      policy.end_step(kStep, {});
      if (step % 4 == 3) policy.end_epoch({});
    }
  };
  const auto whole = make_ldp(options, two_layers());
  run(*whole, 0, 12);
  const auto first = make_ldp(options, two_layers());
  run(*first, 0, 5);
  const auto second = make_ldp(options, two_layers());
  second->load_state(json::parse(first->state().dump()));
  run(*second, 5, 12);
  EXPECT_EQ(second->state(), whole->state());
  EXPECT_THROW(make_ldp(options, resnet20_layers())->load_state(first->state()), Error);
}

TEST(Ldp, RefusesAnEmptyRangeOfBits) {
  EXPECT_THROW(make_ldp({{"min_bits", 8}, {"max_bits", 6}}, two_layers()), Error);
}

}  // namespace
}  // namespace bitdial::policies
