#include "bitdial/policies/muppet.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "parameter_harness.h"

namespace bitdial::policies {
namespace {

using Options = nlohmann::json;
using testing::ParameterHarness;
using testing::VectorProbe;

constexpr int64_t kSteps = 2;  // of an epoch

std::shared_ptr<MuppetPolicy> make_muppet(const nlohmann::json& options = nlohmann::json::object()) {
  return std::dynamic_pointer_cast<MuppetPolicy>(make("muppet", options));
}

std::vector<ParameterInfo> two_layers() {
  return {{"conv1", {4, 2, 1, 1}, 0, true}, {"conv1.bias", {4}, 0, false}, {"fc", {3, 4}, 1, true}};
}

/// A run whose epoch-end gradients have the diversity that a test wants.
class MuppetRun {
 public:
  explicit MuppetRun(const nlohmann::json& options = nlohmann::json::object())
      : policy(make_muppet(options)), parameters(*policy, two_layers()) {
    for (auto& master : parameters.masters) std::fill(master.begin(), master.end(), 0.75F);
    parameters.write_working(0);
  }

  /// Equal gradients (GD = 1/r) or, per epoch another element, orthogonal ones (GD = 1).
  std::vector<double> epoch(int64_t e, bool is_diverse) {
    std::vector<double> rates;
    for (int64_t i = 0; i < kSteps; ++i) {
      const StepInfo step{.step = e * kSteps + i, .epoch = e, .steps_per_epoch = kSteps};
      for (auto& gradient : parameters.gradients) {
        for (size_t k = 0; k < gradient.size(); ++k) {
          gradient[k] = is_diverse ? (static_cast<int64_t>(k) == e % 3 ? 0.5F : 0.0F) : 0.5F;
        }
      }
      parameters.update(step, 1.0);
      policy->end_step(step, {.loss = 1.0, .learning_rate = 0.1});
      parameters.write_working(step.step + 1);
      const RunControl control = policy->control(step);
      rates.push_back(control.learning_rate.value_or(0.1));  // or the schedule's
      stopped = stopped || control.stop;
    }
    return rates;
  }

  TensorPlan plan(TensorRole role, int layer, const std::vector<float>& x) {
    VectorProbe probe(x);
    return policy->plan({layer, role}, {.step = 0}, probe);
  }

  std::shared_ptr<MuppetPolicy> policy;
  ParameterHarness parameters;
  bool stopped = false;
};

TEST(Muppet, TheRateIsTheLargestOfTheScheduleWhichMayWarmUp) {
  const auto policy = make_muppet({{"epoch_iterations", 100}});
  const auto rate_after = [&](int64_t step, double scheduled) {
    policy->end_step({.step = step}, {.loss = 1.0, .learning_rate = scheduled});
    return policy->control({.step = step}).learning_rate;
  };
  EXPECT_FALSE(rate_after(0, 0.01));
  EXPECT_FALSE(rate_after(1, 0.05));
  EXPECT_FALSE(rate_after(2, 0.1));
  EXPECT_FALSE(rate_after(3, 0.1));
  EXPECT_EQ(rate_after(4, 0.09), 0.1);
  const auto again = make_muppet({{"epoch_iterations", 100}});
  again->load_state(nlohmann::json::parse(policy->state().dump()));
  EXPECT_EQ(again->control({.step = 5}).learning_rate, 0.1);
  EXPECT_EQ(rate_after(5, 0.2), 0.1) << "from then on it is the policy's own";
}

TEST(Muppet, ALevelEndsAfterTwoViolationsAndLastsNineEpochs) {
  // Diverse, then equal gradients: GD falls from 1 to 1/3 and 3 > T at every epoch.
  MuppetRun run;
  std::vector<int64_t> switches;
  int bits = 8;
  for (int64_t e = 0; e < 40; ++e) {
    // The window after a switch is diverse, the next two are not.
    const int64_t since = switches.empty() ? e : e - switches.back() - 1;
    run.epoch(e, since < 3);
    if (run.policy->word_length() != bits) {
      EXPECT_GT(run.policy->word_length(), bits);
      bits = run.policy->word_length();
      switches.push_back(e);
    }
  }
  EXPECT_EQ(switches, (std::vector<int64_t>{8, 17, 26, 35}));
  EXPECT_EQ(bits, 32);
}

TEST(Muppet, StaticScheduleSwitchesAfterItsEpochs) {
  // ResNet20, CIFAR10 (muppet.md): after epochs 20, 38, 50, 62.
  MuppetRun run(Options{{"static_schedule", "20 38 50 62"}});
  std::vector<int> bits;
  for (int64_t e = 0; e < 64; ++e) {
    bits.push_back(run.policy->word_length());
    run.epoch(e, true);
  }
  EXPECT_EQ(bits[20], 8);
  EXPECT_EQ(bits[21], 12);
  EXPECT_EQ(bits[38], 12);
  EXPECT_EQ(bits[39], 14);
  EXPECT_EQ(bits[51], 16);
  EXPECT_EQ(bits[63], 32);
  EXPECT_THROW(make("muppet", {{"static_schedule", "20 10"}}), Error);
  EXPECT_THROW(make("muppet", {{"static_schedule", "20 x"}}), Error);
}

TEST(Muppet, LearningRateIsConstantThenFallsInFloat32AndTheRunStops) {
  MuppetRun run(Options{{"static_schedule", "0 1 2 3"}, {"fp32_epochs_per_lr", 2}});
  std::vector<double> rates;
  int64_t e = 0;
  for (; !run.stopped && e < 100; ++e) rates.push_back(run.epoch(e, true).back());
  EXPECT_EQ(e, 4 + 3 * 2);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(rates[i], 0.1) << i;
  EXPECT_NEAR(rates[5], 0.01, 1e-12);
  EXPECT_NEAR(rates[7], 0.001, 1e-12);
}

TEST(Muppet, EpochsMayBeAsShortAsAsked) {
  MuppetRun run(Options{{"static_schedule", "0 1"}, {"epoch_iterations", 1}});
  run.epoch(0, true);  // two iterations: two epochs
  EXPECT_EQ(run.policy->word_length(), 14);
}

TEST(Muppet, GradientsAreQuantisedThenDecayedByTheQuantisedWeight) {
  MuppetRun run(Options{{"rounding", "nearest"}});
  run.parameters.weight_decay = 0.5;
  run.parameters.masters[0] = {1.0F, 0.7F, -0.3F, 0.001F, 0.0F, 0.0F, 0.0F, 0.0F};
  run.parameters.write_working(0);
  run.parameters.gradients[0] = {0.31F, -0.02F, 0.0F, 0.1F, 0.0F, 0.0F, 0.0F, 0.0F};
  // 8 bits: max 0.31 -> step 2^-8; weights: max 1 -> step 2^-6.
  const auto on = [](float x, float step) { return std::nearbyint(x / step) * step; };
  std::vector<float> expected;
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(run.parameters.working[0][i], on(run.parameters.masters[0][i], 0x1p-6F));
    expected.push_back(on(run.parameters.gradients[0][i], 0x1p-8F) + 0.5F * run.parameters.working[0][i]);
  }
  run.parameters.update({.step = 0, .steps_per_epoch = kSteps}, 1.0);
  EXPECT_EQ(run.parameters.gradients[0], expected);
  EXPECT_TRUE(run.policy->decays_weights());
}

TEST(Muppet, WeightsMeetTheirOwnGridAtTheGemm) {
  MuppetRun run;
  const TensorPlan plan = run.plan(TensorRole::kWeight, 0, run.parameters.working[0]);
  EXPECT_EQ(plan.format.word_length, 8);
  EXPECT_EQ(ParameterHarness::quantized(run.parameters.working[0], plan, random_key({.seed = 9})),
            run.parameters.working[0]);
  EXPECT_FALSE(plan.reason.empty());
}

TEST(Muppet, QuantisesTheTensorsOfTheTable) {
  MuppetRun run;
  const std::vector<float> x{-1.0F, 2.0F};
  EXPECT_EQ(run.plan(TensorRole::kInput, 0, x).format.granularity, Granularity::kSample);  // images
  EXPECT_TRUE(run.plan(TensorRole::kInput, 1, x).format.is_float());
  EXPECT_TRUE(run.plan(TensorRole::kGradBprop, 1, x).format.is_float());
  EXPECT_EQ(run.plan(TensorRole::kOutput, 1, x).format.rule, ScaleRule::kBlockFloat);
  EXPECT_EQ(run.plan(TensorRole::kGradInput, 1, x).format.rule, ScaleRule::kBlockFloat);
  const ResultQuantization results = run.policy->results();
  EXPECT_TRUE(results.outputs && results.pool_outputs && results.grad_inputs);
  EXPECT_FALSE(results.norm_outputs);
  // In integer arithmetic the GEMMs' operands, too.
  run.policy->set_arithmetic(true);
  EXPECT_EQ(run.plan(TensorRole::kInput, 1, x).format.word_length, 8);
  EXPECT_EQ(run.plan(TensorRole::kGradWtgrad, 1, x).format.word_length, 8);
  MuppetRun off(Options{{"quantise_operands", "off"}});
  off.policy->set_arithmetic(true);
  EXPECT_TRUE(off.plan(TensorRole::kInput, 1, x).format.is_float());
}

TEST(Muppet, RestoredRunDecidesTheSame) {
  for (const char* window : {"disjoint", "sliding"}) {
    const nlohmann::json options = {{"gd_window", window}, {"gd_mean", "layers"}};
    MuppetRun first(options);
    for (int64_t e = 0; e < 8; ++e) first.epoch(e, e < 3);
    MuppetRun second(options);
    second.policy->load_state(nlohmann::json::parse(first.policy->state().dump()));
    auto from = first.policy->buffers();
    auto to = second.policy->buffers();
    ASSERT_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      EXPECT_EQ(from[i].first, to[i].first);
      std::ranges::copy(from[i].second, to[i].second.begin());
    }
    for (int64_t e = 8; e < 30; ++e) {
      first.epoch(e, e % 7 < 3);
      second.epoch(e, e % 7 < 3);
      EXPECT_EQ(first.policy->state(), second.policy->state()) << window << " " << e;
    }
    EXPECT_GT(first.policy->word_length(), 8);
  }
}

TEST(Muppet, EvaluationsAreInTheLogWithTheirNumbers) {
  MuppetRun run;
  for (int64_t e = 0; e < 3; ++e) run.epoch(e, true);
  const TensorPlan plan = run.plan(TensorRole::kWeight, 0, run.parameters.working[0]);
  // The bias of 4 and the weights see 0.5 at another place each epoch.
  EXPECT_NEAR(plan.evidence.at("GD").get<double>(), 1.0, 1e-6);
  EXPECT_NEAR(plan.evidence.at("T").get<double>(), MuppetThreshold{}(2), 1e-12);
  EXPECT_EQ(plan.evidence.at("violations"), 0);
  EXPECT_EQ(plan.evidence.at("epoch"), 2);
}

}  // namespace
}  // namespace bitdial::policies
