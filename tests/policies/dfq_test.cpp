#include "bitdial/policies/dfq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "bitdial/core/error.h"
#include "bitdial/policies/fractrain.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

const std::vector<dfq::Option> kCifarOptions = {{3, 6}, {4, 6}, {4, 8}, {6, 8}, {6, 12}};

std::vector<LayerInfo> gated_layers() {
  return {{.name = "conv1", .kernel = 3, .is_first = true},
          {.name = "layer1.0.conv1", .kernel = 3},
          {.name = "layer1.0.conv2", .kernel = 3},
          {.name = "fc", .kind = LayerKind::kLinear, .is_last = true}};
}

std::shared_ptr<DfqPolicy> make_dfq(const json& options = json::object()) {
  OptionReader reader("dfq", options);
  auto policy = std::make_shared<DfqPolicy>(reader);
  reader.finish();
  policy->attach(gated_layers());
  return policy;
}

// fractrain.md: the cp of the released options in list order.
TEST(DfqRule, CostOfTheReleasedOptions) {
  const std::vector<double> cifar = {1.758, 2.083, 2.604, 3.385, 4.688};
  for (size_t i = 0; i < cifar.size(); ++i) {
    EXPECT_NEAR(dfq::cost_percent(kCifarOptions[i], 4), cifar[i], 0.0005);
  }
  const std::vector<dfq::Option> options = {{3, 6}, {4, 8}, {6, 12}, {8, 16}};
  const std::vector<double> imagenet = {2.344, 3.385, 5.859, 8.854};
  for (size_t i = 0; i < imagenet.size(); ++i) {
    EXPECT_NEAR(dfq::cost_percent(options[i], 6), imagenet[i], 0.0005);
  }
}

// Static cp is (b^2 + 2 b g) / 3072.
TEST(DfqRule, CostOfStaticBits) {
  EXPECT_NEAR(dfq::cost_percent({8, 8}, 8), 6.25, 1e-12);
  EXPECT_NEAR(dfq::cost_percent({6, 8}, 6), 4.297, 0.0005);
  EXPECT_NEAR(dfq::cost_percent({8, 16}, 8), 10.417, 0.0005);
}

TEST(DfqRule, CostIsTheMeanOverBlocksAndSamples) {
  const std::vector<double> samples = {3, 0, 0, 0, 1, 0, 4, 0, 0, 0};  // two blocks, four samples
  const double mean = (3 * dfq::cost_percent(kCifarOptions[0], 4) + dfq::cost_percent(kCifarOptions[4], 4) +
                       4 * dfq::cost_percent(kCifarOptions[1], 4)) /
                      8;
  const dfq::BlockSizes alike{.sizes = {1.0, 1.0}};
  EXPECT_NEAR(dfq::cost_percent(samples, kCifarOptions, 4, 4, alike), mean, 1e-12);
  EXPECT_NEAR(dfq::cost_percent(samples, kCifarOptions, 4, 8, alike), mean / 2, 1e-12)
      << "a nominal batch of 8";
  EXPECT_THROW(dfq::cost_percent(std::vector<double>(7, 1.0), kCifarOptions, 4, 4, alike), Error);
}

// MobileNetV2: blocks by size; depth-wise convolutions cost (8*8 + 8*16 + 8*16)/1024 of float32's MAC.
TEST(DfqRule, BlocksMayDifferInSizeAndHaveAConstantPart) {
  EXPECT_NEAR(dfq::depthwise_cost(1024.0), 320.0, 1e-12);
  const std::vector<dfq::Option> options = {{4, 8}, {8, 8}};
  const std::vector<double> samples = {2, 0, 0, 2};
  const double first = 3.0 * (4 * 4 + 8 * 4 + 4 * 8) / 1024.0,
               second = 5.0 * (8 * 4 + 8 * 4 + 8 * 8) / 1024.0;
  EXPECT_NEAR(dfq::cost_percent(samples, options, 4, 2, {.sizes = {3, 5}, .constant = 0.5}),
              100.0 * (first + second + 0.5) / (3.0 * 8 + 0.5), 1e-12);
}

TEST(DfqRule, SignOfTheCostTerm) {
  using dfq::Middle;
  EXPECT_EQ(dfq::sign_of(2.99, 3, 0, Middle::kTenth), -1.0);
  EXPECT_EQ(dfq::sign_of(3.0, 3, 0, Middle::kTenth), 1.0);
  const std::vector<std::pair<double, double>> relaxed = {{2.4, -1.0}, {2.5, -0.1}, {2.99, -0.1},
                                                          {3.0, 0.1},  {3.4, 0.1},  {3.5, 1.0}};
  for (const auto& [cost, sign] : relaxed)
    EXPECT_EQ(dfq::sign_of(cost, 3, 0.5, Middle::kTenth), sign) << cost;
  const std::vector<std::pair<double, double>> zero = {{2.9, -1.0}, {3.0, 0.0}, {3.4, 0.0}, {3.5, 1.0}};
  for (const auto& [cost, sign] : zero) EXPECT_EQ(dfq::sign_of(cost, 3, 0.5, Middle::kZero), sign) << cost;
}

TEST(Dfq, FormatsFollowTheOption) {
  const auto policy = make_dfq();
  const auto bits = [&](TensorRole role, int option) {
    return policy->evaluation_format({.layer = 1, .role = role, .option = option}).word_length;
  };
  for (int option = 0; option < 5; ++option) {
    const dfq::Option expected = kCifarOptions[static_cast<size_t>(option)];
    EXPECT_EQ(bits(TensorRole::kWeight, option), 4);
    EXPECT_EQ(bits(TensorRole::kInput, option), expected.activation);
    EXPECT_EQ(bits(TensorRole::kInputWtgrad, option), expected.activation);
    EXPECT_EQ(bits(TensorRole::kGradBprop, option), expected.gradient);
    EXPECT_EQ(bits(TensorRole::kGradWtgrad, option), expected.gradient);
  }
  EXPECT_TRUE(policy->evaluation_format({.layer = 0, .role = TensorRole::kInput}).is_float());
  EXPECT_EQ(policy->gate()->options, 5);
  EXPECT_EQ(policy->gate()->form, GateForm::kBlock);
  EXPECT_THROW(make_dfq({{"activation_options", {3, 4}}}), Error);
}

TEST(Dfq, ImageNetPreset) {
  const auto policy = make_dfq({{"preset", "imagenet"}});
  EXPECT_EQ(policy->gate()->form, GateForm::kOperand);
  EXPECT_EQ(policy->gate()->features, std::vector<int64_t>{40});
  EXPECT_EQ(policy->gate()->hidden, 20);
  EXPECT_EQ(policy->choices().back().gradient, 16);
  EXPECT_EQ(policy->options()["weight_bits"], 6);
  EXPECT_EQ(policy->options()["layers"], "imagenet");
}

TEST(Dfq, MobileNetV2Preset) {
  const auto policy = make_dfq({{"preset", "mobilenet-v2"}});
  EXPECT_EQ(policy->gate()->form, GateForm::kBlock);
  EXPECT_EQ(policy->gate()->features, (std::vector<int64_t>{64, 32}));
  EXPECT_EQ(policy->gate()->hidden, 32);
  EXPECT_EQ(policy->options()["weight_bits"], 4);
}

// C / mean(O): a block of twice the size has weights twice as large; what no option changes is in cp alone.
TEST(Dfq, WeighsBlocksByTheirSize) {
  const auto policy = make_dfq({{"target", 2.0}, {"log_every", 1}});
  const GateUse use{.samples = {0, 0, 4, 0, 0, 0, 0, 0, 0, 4},
                    .blocks = 2,
                    .batch = 4,
                    .task_loss = 2.3,
                    .macs = {100, 200},
                    .depthwise_macs = {10, 20}};
  const std::vector<double> weights = policy->weigh_gate(use, {.step = 1});
  EXPECT_NEAR(weights[9], 1e-3 * (6 * 4 + 12 * 4 + 6 * 12) / 1024.0 * 200 / 150, 1e-15);
  EXPECT_NEAR(weights[4] * 2, weights[9], 1e-15);
  const double cost = 100 * (4 * 4 + 8 * 4 + 4 * 8) / 1024.0 + 200 * (6 * 4 + 12 * 4 + 6 * 12) / 1024.0;
  const double constant = 30 * 320 / 1024.0;
  EXPECT_NEAR(policy->cost_percent(), 100.0 * (cost + constant) / (3 * 300 + constant), 1e-12);
  // The same from the log alone.
  VectorProbe probe({-1.0F, 1.0F});
  const TensorId inside{.layer = 1, .role = TensorRole::kInput, .option = 0};
  policy->plan(inside, {.step = 1}, probe);
  const TensorPlan plan = policy->plan(inside, {.step = 2}, probe);
  const auto again = make_dfq({{"target", 2.0}})->redecide({.layer = 1}, {}, plan.evidence);
  EXPECT_NEAR(again->evidence.at("cp").get<double>(), policy->cost_percent(), 1e-12);
}

// 0 bits: the block is skipped and costs nothing.
TEST(Dfq, AnOptionMaySkipTheBlock) {
  const auto policy =
      make_dfq({{"activation_options", {0, 4}}, {"gradient_options", {0, 8}}, {"log_every", 1}});
  EXPECT_TRUE(policy->gate()->can_skip(0));
  EXPECT_FALSE(policy->gate()->can_skip(1));
  VectorProbe probe({-1.0F, 1.0F});
  const TensorId inside{.layer = 1, .role = TensorRole::kInput, .option = 1};
  EXPECT_EQ(policy->plan(inside, {}, probe).reason, "the gate chooses among 0, 4 bits");
  policy->weigh_gate({.samples = {3, 1}, .blocks = 1, .batch = 4, .task_loss = 1.0}, {});
  EXPECT_NEAR(policy->cost_percent(), dfq::cost_percent({4, 8}, 4) / 4, 1e-12);
  EXPECT_NEAR(*policy->mean_bits(inside), 1.0, 1e-12);
  EXPECT_THROW(make_dfq({{"activation_options", {0, 4}}, {"gradient_options", {6, 8}}}), Error);
  EXPECT_THROW(make_dfq({{"activation_options", {1, 4}}, {"gradient_options", {6, 8}}}), Error);
  EXPECT_THROW(
      make_dfq({{"activation_options", {0, 4}}, {"gradient_options", {0, 8}}, {"gate_form", "operand"}}),
      Error);
}

// The bits of X and dY rise and fall together: mean(a g) is not mean(a) mean(g).
TEST(Dfq, BitsOfAnOptionBelongTogether) {
  const auto policy = make_dfq({});
  VectorProbe probe({-1.0F, 1.0F});
  const TensorId inside{.layer = 1, .role = TensorRole::kInput, .option = 0};
  policy->plan(inside, {}, probe);
  policy->weigh_gate({.samples = {2, 0, 0, 0, 2}, .blocks = 1, .batch = 4, .task_loss = 1.0}, {});
  EXPECT_NEAR(policy->bits_covariance(1), (3 * 6 + 6 * 12) / 2.0 - 4.5 * 9, 1e-12);
  EXPECT_EQ(policy->bits_covariance(0), 0.0);
}

// The released cost divides by the nominal batch, a short last one too.
TEST(Dfq, ReplaysTheCostOfANominalBatch) {
  const auto policy = make_dfq({{"nominal_batch", 8}, {"log_every", 1}});
  VectorProbe probe({-1.0F, 1.0F});
  const TensorId inside{.layer = 1, .role = TensorRole::kInput, .option = 0};
  policy->plan(inside, {}, probe);
  policy->weigh_gate({.samples = {1, 0, 0, 0, 3}, .blocks = 1, .batch = 4, .task_loss = 0.5}, {});
  const TensorPlan plan = policy->plan(inside, {.step = 1}, probe);
  EXPECT_NEAR(policy->cost_percent(), 3.955 / 2, 1e-3);
  const auto again = make_dfq({{"nominal_batch", 8}})->redecide({.layer = 1}, {}, plan.evidence);
  EXPECT_NEAR(again->evidence.at("cp").get<double>(), policy->cost_percent(), 1e-12);
}

// One block, four samples: the term is r beta times the summed cost of the choices.
TEST(Dfq, WeighsChoicesByTheirCost) {
  const auto policy = make_dfq({{"target", 2.0}});
  GateUse use{.samples = {0, 0, 0, 0, 4}, .blocks = 1, .batch = 4, .task_loss = 2.3};
  std::vector<double> weights = policy->weigh_gate(use, {});
  EXPECT_NEAR(policy->cost_percent(), 4.6875, 1e-9);
  EXPECT_EQ(policy->r(), 1.0);
  EXPECT_NEAR(weights[4], 1e-3 * (6 * 4 + 12 * 4 + 6 * 12) / 1024.0, 1e-15);
  EXPECT_NEAR(weights[0], 1e-3 * (3 * 4 + 6 * 4 + 3 * 6) / 1024.0, 1e-15);
  use.samples = {4, 0, 0, 0, 0};
  weights = policy->weigh_gate(use, {});
  EXPECT_EQ(policy->r(), -1.0);
  EXPECT_NEAR(weights[4], -1e-3 * 144 / 1024.0, 1e-15);
}

TEST(Dfq, TheTermMayBeCappedAtATenthOfTheTaskLoss) {
  const auto policy = make_dfq({{"target", 2.0}, {"ada_beta", true}, {"beta", 1.0}});
  const GateUse use{.samples = {0, 0, 0, 0, 4}, .blocks = 1, .batch = 4, .task_loss = 0.5};
  const std::vector<double> weights = policy->weigh_gate(use, {});
  const double term = std::inner_product(weights.begin(), weights.end(), use.samples.begin(), 0.0);
  EXPECT_NEAR(term, 0.05, 1e-12);
}

TEST(Dfq, LogsCostSignAndShares) {
  const auto policy = make_dfq({{"log_every", 10}});
  VectorProbe probe({-1.0F, 1.0F});
  const TensorId inside{.layer = 1, .role = TensorRole::kInput, .option = 2};
  EXPECT_EQ(policy->plan(inside, {.step = 0}, probe).reason, "the gate chooses among 3, 4, 4, 6, 6 bits");
  const TensorId outside{.layer = 0, .role = TensorRole::kInput};
  EXPECT_NE(policy->plan(outside, {.step = 0}, probe).reason.find("outside"), std::string::npos);
  const GateUse use{.samples = {1, 0, 0, 0, 3}, .blocks = 1, .batch = 4, .task_loss = 0.5};
  policy->weigh_gate(use, {.step = 9});
  EXPECT_TRUE(policy->plan(inside, {.step = 10}, probe).reason.empty());
  policy->weigh_gate(use, {.step = 10});
  EXPECT_TRUE(policy->plan(outside, {.step = 11}, probe).reason.empty());
  const TensorPlan plan = policy->plan(inside, {.step = 11}, probe);
  EXPECT_NE(plan.reason.find("3.955 % of float32, target 3 %"), std::string::npos) << plan.reason;
  EXPECT_EQ(plan.evidence.at("r"), 1.0);
  EXPECT_EQ(plan.evidence.at("shares"), (json{0.25, 0.0, 0.0, 0.0, 0.75}));
  const auto again = make_dfq()->redecide({.layer = 1, .role = TensorRole::kInput}, {}, plan.evidence);
  EXPECT_EQ(again->format, plan.format);
  EXPECT_NEAR(again->evidence.at("cp").get<double>(), plan.evidence.at("cp").get<double>(), 1e-12);
  EXPECT_EQ(again->evidence.at("r"), 1.0);
  EXPECT_TRUE(policy->plan(inside, {.step = 11}, probe).reason.empty());
  EXPECT_NEAR(*policy->mean_bits({.layer = 1, .role = TensorRole::kInput}), 0.25 * 3 + 0.75 * 6, 1e-12);
  EXPECT_FALSE(policy->mean_bits({.layer = 0, .role = TensorRole::kInput}).has_value());
}

std::shared_ptr<FracTrainPolicy> make_fractrain(const json& options) {
  OptionReader reader("fractrain", options);
  auto policy = std::make_shared<FracTrainPolicy>(reader);
  reader.finish();
  policy->attach(gated_layers());
  return policy;
}

void end_steps(FracTrainPolicy& policy, int64_t count, double loss) {
  for (int64_t i = 0; i < count; ++i) policy.end_step({}, {.loss = loss});
}

// A flat loss lets the indicator switch after every window of five: targets 1.5, 2, 2.5, 3.
TEST(FracTrain, TheIndicatorRaisesTheTarget) {
  const auto policy = make_fractrain({{"eval_every", 2}});
  EXPECT_EQ(policy->target(), 1.5);
  end_steps(*policy, 9, 1.0);
  EXPECT_EQ(policy->target(), 1.5);
  for (const double target : {2.0, 2.5, 3.0, 3.0}) {
    end_steps(*policy, 10, 1.0);
    EXPECT_EQ(policy->target(), target);
  }
  EXPECT_EQ(make_fractrain({{"preset", "imagenet"}})->target(), 3.0);
}

TEST(FracTrain, AnEvaluationPeriodMayBeAnEpoch) {
  const auto policy = make_fractrain({{"eval_every", "epoch"}});
  for (int epoch = 0; epoch < 5; ++epoch) {
    end_steps(*policy, 7, 1.0);
    EXPECT_EQ(policy->target(), 1.5);
    policy->end_epoch({});
  }
  EXPECT_EQ(policy->target(), 2.0);
}

TEST(FracTrain, SwitchesAreLoggedAndRestored) {
  const auto policy = make_fractrain({{"eval_every", 1}});
  VectorProbe probe({-1.0F, 1.0F});
  const TensorId inside{.layer = 1, .role = TensorRole::kInput, .option = 0};
  policy->plan(inside, {}, probe);
  policy->weigh_gate({.samples = {4, 0, 0, 0, 0}, .blocks = 1, .batch = 4, .task_loss = 1.0}, {.step = 1});
  EXPECT_EQ(policy->r(), 1.0) << "the cheapest option costs 1.758 %";
  end_steps(*policy, 5, 1.0);
  const auto again = make_fractrain({{"eval_every", 1}});
  again->load_state(json::parse(policy->state().dump()));
  EXPECT_TRUE(policy->plan(inside, {.step = 6}, probe).reason.empty());
  const GateUse use{.samples = {4, 0, 0, 0, 0}, .blocks = 1, .batch = 4, .task_loss = 1.0};
  policy->weigh_gate(use, {.step = 6});
  again->weigh_gate(use, {.step = 6});
  const TensorPlan plan = policy->plan(inside, {.step = 6}, probe);
  EXPECT_NE(plan.reason.find("target 2 %"), std::string::npos) << plan.reason;
  EXPECT_EQ(plan.evidence.at("pfq").at("k"), 1);
  EXPECT_EQ(plan.evidence.at("r"), -1.0);
  const auto replayed = make_fractrain({{"eval_every", 1}})
                            ->redecide({.layer = 1, .role = TensorRole::kInput}, {}, plan.evidence);
  EXPECT_EQ(replayed->evidence.at("target"), 2.0);
  EXPECT_EQ(replayed->evidence.at("r"), -1.0);
  EXPECT_EQ(again->plan(inside, {.step = 6}, probe).evidence, plan.evidence);
  EXPECT_EQ(again->state(), policy->state());
}

TEST(Dfq, StateIsRestoredExactly) {
  const auto policy = make_dfq();
  VectorProbe probe({-1.0F, 1.0F});
  policy->plan({.layer = 1, .role = TensorRole::kInput, .option = 0}, {}, probe);
  policy->weigh_gate({.samples = {1, 0, 2, 0, 1}, .blocks = 1, .batch = 4, .task_loss = 1.0}, {});
  const auto again = make_dfq();
  again->load_state(json::parse(policy->state().dump()));
  EXPECT_EQ(again->state(), policy->state());
  const TensorId next{.layer = 1, .role = TensorRole::kInput, .option = 1};
  EXPECT_EQ(again->plan(next, {.step = 1}, probe).reason, policy->plan(next, {.step = 1}, probe).reason);
}

}  // namespace
}  // namespace bitdial::policies
