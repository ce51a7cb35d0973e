#include "bitdial/policies/adapt.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/policies/registry.h"
#include "bitdial/policies/vector_sums.h"
#include "parameter_harness.h"

namespace bitdial::policies {
namespace {

using Options = nlohmann::json;
using testing::ParameterHarness;
using testing::VectorProbe;

std::shared_ptr<AdaptPolicy> make_adapt(const nlohmann::json& options, const std::string& name = "adapt") {
  return std::dynamic_pointer_cast<AdaptPolicy>(make(name, options));
}

/// A convolution with norm and a linear layer, weights normal, gradients uncorrelated from step to step.
class AdaptRun {
 public:
  explicit AdaptRun(const nlohmann::json& options = nlohmann::json::object(),
                    const std::string& name = "adapt")
      : AdaptRun(options, 0.5, name) {}
  /// `sigma`: of the gradients' elements.
  AdaptRun(const nlohmann::json& options, double sigma, const std::string& name = "adapt")
      : sigma(sigma),
        policy(make_adapt(options, name)),
        parameters(*policy, {{"conv1.weight", {16, 8, 3, 3}, 0, true},
                             {"bn1.weight", {16}, 0, false},
                             {"bn1.bias", {16}, 0, false},
                             {"fc.weight", {10, 64}, 1, true},
                             {"fc.bias", {10}, 1, false}}) {
    for (auto& master : parameters.masters) fill(master, 0.1);
    parameters.write_working(0);
  }

  void fill(std::vector<float>& values, double sigma) {
    std::normal_distribution<double> normal(0.0, sigma);
    for (float& x : values) x = static_cast<float>(normal(random));
  }

  void step(double loss) {
    for (auto& gradient : parameters.gradients) fill(gradient, sigma);
    const StepInfo step{.step = steps, .steps_per_epoch = 100};
    parameters.update(step, loss);
    policy->end_step(step, {.loss = loss});
    ++steps;
    parameters.write_working(steps);
  }

  TensorPlan plan(TensorRole role, int layer) {
    VectorProbe probe({1.0F});
    return policy->plan({layer, role}, {.step = steps}, probe);
  }

  double sigma;
  std::mt19937 random{17};
  std::shared_ptr<AdaptPolicy> policy;
  ParameterHarness parameters;
  int64_t steps = 0;
};

void expect_invariants(const AdaptPolicy& policy, int wl_max, int buff) {
  for (const AdaptPolicy::Tensor& tensor : policy.tensors()) {
    EXPECT_GE(tensor.format.FL, 4);
    EXPECT_LE(tensor.format.FL, wl_max - buff);
    EXPECT_LE(tensor.format.FL + buff, tensor.format.WL);
    EXPECT_LE(tensor.format.WL, wl_max);
    EXPECT_GE(tensor.r, 50);
    EXPECT_LE(tensor.r, 150);
    EXPECT_GE(tensor.lb, 25);
    EXPECT_LE(tensor.lb, 100);
  }
}

TEST(Adapt, SwitchesAfterTheLookbackAndKeepsItsInvariants) {
  for (const char* search : {"clean", "released"}) {
    for (const auto& [wl_max, buff] : {std::pair{32, 8}, {32, 4}, {16, 4}}) {
      AdaptRun run(Options{{"search", search}, {"wl_max", wl_max}, {"buff", buff}});
      run.step(1.0);
      EXPECT_EQ(run.policy->tensors()[0].format, (FixedPoint{8, 4}));
      std::vector<int64_t> switches;
      for (int i = 1; i < 90; ++i) {
        const int64_t before = run.policy->tensors()[0].n;
        // A loss that rises now and then moves the strategy.
        run.step(i % 20 < 10 ? 1.0 : 2.0);
        if (run.policy->tensors()[0].n < before) {
          switches.push_back(run.steps);
          EXPECT_TRUE(run.plan(TensorRole::kWeight, 0).evidence.contains("D"));
        }
        if (run.steps > 31) {
          expect_invariants(*run.policy, wl_max, buff);
        }
      }
      ASSERT_EQ(switches.size(), 3U);
      // D of random directions is sqrt(n) within some percent: 28 updates (adapt.md), give or take one.
      EXPECT_NEAR(static_cast<double>(switches[0]), 28.0, 1.0);
      EXPECT_NEAR(static_cast<double>(switches[2] - switches[1]), 28.0, 1.0);
    }
  }
}

TEST(Adapt, DecidesTheSameOnAnyNumberOfThreads) {
  const int threads = num_threads();
  std::vector<nlohmann::json> states;
  for (const int count : {1, 3}) {
    set_num_threads(count);
    AdaptRun run;
    for (int i = 0; i < 60; ++i) run.step(1.0);
    states.push_back(run.policy->state());
  }
  set_num_threads(threads);
  EXPECT_EQ(states[0], states[1]);
}

TEST(Adapt, EvidenceRederivesTheSwitch) {
  AdaptRun run(Options{{"buff", 4}, {"kl_tol", 0.02}});
  int seen = 0;
  for (int i = 0; i < 120; ++i) {
    run.step(1.0 + 0.01 * i);
    const TensorPlan plan = run.plan(TensorRole::kWeight, 0);
    if (!plan.evidence.contains("D")) continue;
    ++seen;
    const auto& evidence = plan.evidence;
    const FixedPoint reduced{evidence.at("push_down").at(0), evidence.at("push_down").at(1)};
    const auto strategy = evidence.at("strategy") == "min"    ? AdaptStrategy::kMin
                          : evidence.at("strategy") == "mean" ? AdaptStrategy::kMean
                                                              : AdaptStrategy::kMax;
    const PushUpResult up = push_up(evidence.at("D"), reduced, strategy, {.buff = 4});
    EXPECT_EQ(up.format.WL, plan.format.word_length);
    EXPECT_EQ(up.format.FL, plan.format.fraction_length);
    EXPECT_EQ(up.s1, evidence.at("s1"));
    EXPECT_EQ(up.s2, evidence.at("s2"));
    EXPECT_GE(evidence.at("n").get<int>(), evidence.at("lookback").get<int>());
  }
  EXPECT_GE(seen, 3);
}

/// The switches of layer 0, as the log keeps them, and their formats.
std::vector<std::pair<nlohmann::json, Format>> logged_switches(AdaptRun& run, int steps) {
  std::vector<std::pair<nlohmann::json, Format>> switches;
  for (int i = 0; i < steps; ++i) {
    run.step(1.0 + 0.5 * (i / 20 % 2));  // moves the strategy
    const TensorPlan plan = run.plan(TensorRole::kWeight, 0);
    if (plan.evidence.contains("D"))
      switches.emplace_back(nlohmann::json::parse(plan.evidence.dump()), plan.format);
  }
  return switches;
}

/// Whether a policy that never trained decides the same from these numbers.
bool replays(AdaptPolicy& policy, const nlohmann::json& evidence, const Format& format) {
  const auto plan = policy.redecide({0, TensorRole::kWeight}, {}, evidence);
  if (!plan || plan->format != format) return false;
  for (const auto& [key, value] : plan->evidence.items()) {
    if (evidence.at(key) != value) return false;
  }
  return plan->evidence.contains("KL_FL");
}

TEST(Adapt, TheLogAloneLeadsToTheSameDecisions) {
  for (const char* name : {"adapt", "adept", "marvin"}) {
    for (const Options& options :
         {Options{{"buff", 4}}, Options{{"search", "released"}}, Options{{"pushup", "arxiv"}},
          Options{{"pushup", "kl_gradients"}, {"lb_upr", 30}}}) {
      AdaptRun run(options, name), fresh(options, name);
      const auto switches = logged_switches(run, 100);
      EXPECT_GE(switches.size(), 3U);
      for (const auto& [evidence, format] : switches) {
        EXPECT_TRUE(replays(*fresh.policy, evidence, format)) << name << " " << options << " " << evidence;
      }
    }
  }
}

TEST(Adapt, AnAlteredNumberOfTheLogLeadsElsewhere) {
  const Options options{{"buff", 4}, {"kl_tol", 0.02}};
  AdaptRun run(options);
  const auto switches = logged_switches(run, 100);
  ASSERT_GE(switches.size(), 3U);
  // Replays up to the third switch, which has one number altered.
  const auto replays_with = [&](const std::string& key, const nlohmann::json& value) {
    AdaptRun fresh(options);
    for (size_t k = 0; k < 2; ++k) EXPECT_TRUE(replays(*fresh.policy, switches[k].first, switches[k].second));
    nlohmann::json evidence = switches[2].first;
    evidence[nlohmann::json::json_pointer(key)] = value;
    return replays(*fresh.policy, evidence, switches[2].second);
  };
  const nlohmann::json& evidence = switches[2].first;
  EXPECT_TRUE(replays_with("/D", evidence.at("D")));
  int altered = 0;
  for (const auto& [search, before] : {std::pair{"KL_FL", 1}, {"KL_WL", 0}}) {
    const nlohmann::json& looked_at = evidence.at(search);
    for (size_t k = 0; k < looked_at.size(); ++k) {
      if (looked_at[k].at(0) == evidence.at("before").at(before)) continue;  // taken whatever it loses
      const double other = looked_at[k].at(1).get<double>() > 0.02 ? 0.0 : 1.0;
      EXPECT_FALSE(replays_with(fmt::format("/{}/{}/1", search, k), other)) << search << " " << looked_at[k];
      ++altered;
    }
  }
  EXPECT_GE(altered, 4);
  EXPECT_FALSE(replays_with("/D", 3.0));
  EXPECT_FALSE(replays_with("/n", 3));
  EXPECT_FALSE(replays_with("/lookback_before", 90));
  EXPECT_FALSE(replays_with("/resolution_before", 140));
  EXPECT_FALSE(replays_with("/s1", 77));
  EXPECT_FALSE(replays_with("/strategy", "max"));
  EXPECT_FALSE(replays_with("/before/1", 30));
}

TEST(Adapt, FollowersCopyTheTensorBefore) {
  AdaptRun run;
  for (int i = 0; i < 40; ++i) run.step(1.0);
  const auto& tensors = run.policy->tensors();
  for (const size_t follower : {size_t{1}, size_t{2}}) {
    EXPECT_EQ(tensors[follower].format, tensors[0].format);
    EXPECT_EQ(tensors[follower].lb, tensors[0].lb);
  }
  EXPECT_EQ(tensors[4].format, tensors[3].format);
  EXPECT_EQ(run.policy->buffers().size(), 2U);
}

TEST(Adapt, GradientsAreQuantisedThenNormalised) {
  AdaptRun run(Options{{"l1", 0.0}});
  run.step(1.0);
  for (const auto& gradient : run.parameters.gradients) EXPECT_NEAR(squared_norm(gradient), 1.0, 1e-5);
  // Multiples of one number: the norm was taken after the grid of 1/16.
  const std::vector<float>& g = run.parameters.gradients[0];
  float unit = 1.0F;
  for (const float x : g) {
    if (x != 0.0F) unit = std::min(unit, std::fabs(x));
  }
  for (const float x : g) EXPECT_NEAR(x / unit, std::nearbyint(x / unit), 0.02) << x;

  AdaptRun clipped(Options{{"grad_norm", "clip1"}, {"l1", 0.0}, {"quant_grads", false}});
  std::vector<float>& small = clipped.parameters.gradients[4];
  std::fill(small.begin(), small.end(), 0.01F);
  clipped.parameters.update({.step = 0}, 1.0);
  EXPECT_EQ(small.front(), 0.01F);
}

TEST(Adapt, DiversityIsOfDirectionsWhateverTheNormOfTheGradients) {
  for (const char* norm : {"l2_unit", "clip1", "none"}) {
    for (const double sigma : {1e-3, 10.0}) {  // norms far below 1 and far above
      AdaptRun run(Options{{"grad_norm", norm}, {"quant_grads", false}, {"l1", 0.0}}, sigma);
      for (int i = 0; i < 28; ++i) run.step(1.0);
      const nlohmann::json evidence = run.plan(TensorRole::kWeight, 0).evidence;
      ASSERT_TRUE(evidence.contains("D")) << norm;
      const auto n = evidence.at("n").get<double>();
      EXPECT_NEAR(evidence.at("D").get<double>(), std::sqrt(n), 0.1 * std::sqrt(n)) << norm;
    }
  }
}

TEST(Adapt, L1PullsTheWeightsThatTheNetworkSees) {
  AdaptRun run(Options{{"l1", 0.25}, {"grad_norm", "none"}, {"quant_grads", false}});
  auto& gradient = run.parameters.gradients[0];
  std::fill(gradient.begin(), gradient.end(), 1.0F);
  run.parameters.update({.step = 0}, 1.0);
  int zeros = 0;
  for (size_t i = 0; i < gradient.size(); ++i) {
    const float w = run.parameters.working[0][i];
    zeros += w == 0.0F;
    EXPECT_EQ(gradient[i], w > 0.0F ? 1.25F : w < 0.0F ? 0.75F : 1.0F);
  }
  EXPECT_GT(zeros, 0);  // the grid of 1/16 has many
  EXPECT_NEAR(run.policy->zero_fraction(0), static_cast<double>(zeros) / static_cast<double>(gradient.size()),
              1e-12);
}

TEST(Adapt, PenaltyIsTheMeanOfWordLengthAndNonZeros) {
  AdaptRun run;
  double expected = 0.0;
  for (int p = 0; p < 5; ++p) expected += 8.0 / 32.0 * (1.0 - run.policy->zero_fraction(p)) / 5.0;
  EXPECT_NEAR(run.policy->penalty(), expected, 1e-12);
}

TEST(Adapt, WorkingValuesAreExactAtTheGemm) {
  AdaptRun run;
  for (int i = 0; i < 60; ++i) {
    run.step(1.0);
    const TensorPlan plan = run.plan(TensorRole::kWeight, 0);
    EXPECT_EQ(ParameterHarness::quantized(run.parameters.working[0], plan, random_key({.seed = 4})),
              run.parameters.working[0]);
  }
}

TEST(Adapt, RisingLossReachesTheWidestFormatWithinTwoSteps) {
  AdaptRun run(Options{{"buff", 4}, {"gamma", 1.0}});
  for (int i = 0; i < 60; ++i) run.step(1.0);
  double loss = 1.0;
  while (run.policy->strategy() != AdaptStrategy::kMax) {
    loss += 1.0;
    ASSERT_LT(loss, 5.0);
    run.step(loss);
  }
  EXPECT_LE(loss, 3.0);
  run.step(0.0);
  EXPECT_EQ(run.policy->strategy(), AdaptStrategy::kMin);
}

TEST(Adapt, QuantisesTheTensorsOfTheTable) {
  AdaptRun run;
  for (const TensorRole role : {TensorRole::kWeight, TensorRole::kInput, TensorRole::kOutput}) {
    EXPECT_EQ(to_string(run.plan(role, 0).format), "fixed<8,4>+sr");
  }
  EXPECT_TRUE(run.plan(TensorRole::kGradBprop, 0).format.is_float());
  EXPECT_TRUE(run.plan(TensorRole::kGradWtgrad, 0).format.is_float());
  const ResultQuantization results = run.policy->results();
  EXPECT_TRUE(results.outputs && results.norm_outputs && results.pool_outputs && results.pool_inputs);
  EXPECT_FALSE(results.grad_inputs || results.inputs_in_place);
  EXPECT_FALSE(results.norm_inputs);  // on their grid already
  const ResultQuantization inputs = make_adapt({{"quant_out", false}})->results();
  EXPECT_TRUE(inputs.norm_inputs && inputs.pool_inputs);
  EXPECT_FALSE(inputs.outputs || inputs.norm_outputs || inputs.pool_outputs);
  const ResultQuantization outputs = make_adapt({{"quant_in", false}})->results();
  EXPECT_TRUE(outputs.outputs && outputs.norm_outputs && outputs.pool_outputs);
  EXPECT_FALSE(outputs.norm_inputs || outputs.pool_inputs);
  EXPECT_FALSE(make_adapt({{"quant_in", false}, {"quant_out", false}})->results().any());
  EXPECT_FALSE(make_adapt({{"quantise_results", false}})->results().any());
  EXPECT_TRUE(make_adapt({{"inplace_inputs", true}})->results().inputs_in_place);
}

TEST(Adapt, AsksForItsInitialiser) {
  for (const char* name : {"adapt", "adept", "marvin"})
    EXPECT_EQ(make(name)->initializer(), Initializer::kTruncatedNormal) << name;
  EXPECT_EQ(make("muppet")->initializer(), Initializer::kPublished);
}

TEST(Adapt, RestoredRunDecidesTheSame) {
  for (const char* pushup : {"code", "kl_gradients"}) {
    const nlohmann::json options = {{"pushup", pushup}, {"lb_upr", 40}};
    AdaptRun first(options);
    for (int i = 0; i < 40; ++i) first.step(1.0 + 0.1 * (i % 5));
    AdaptRun second(options);
    second.parameters.masters = first.parameters.masters;
    second.policy->load_state(nlohmann::json::parse(first.policy->state().dump()));
    auto from = first.policy->buffers();
    auto to = second.policy->buffers();
    ASSERT_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) std::ranges::copy(from[i].second, to[i].second.begin());
    second.random = first.random;
    second.steps = first.steps;
    second.parameters.write_working(second.steps);
    for (int i = 0; i < 50; ++i) {
      first.step(1.0 + 0.1 * (i % 3));
      second.step(1.0 + 0.1 * (i % 3));
      ASSERT_EQ(first.policy->state(), second.policy->state()) << pushup << " " << i;
    }
  }
}

TEST(Adapt, PresetsAndTheirRefusals) {
  EXPECT_EQ(make("marvin")->options().at("l1"), 0.0);
  EXPECT_EQ(make("marvin")->options().at("penalty"), false);
  EXPECT_EQ(make("adept")->options().at("l1"), 1e-4);
  EXPECT_EQ(make("adapt")->options().at("preset"), "adapt_sdm");
  EXPECT_EQ(make("adapt", {{"preset", "adapt_v4"}})->options().at("penalty"), true);
  EXPECT_THROW(make("adept", {{"preset", "adapt_v4"}}), Error);
  EXPECT_THROW(make("adapt", {{"lb_lwr", 256}}), Error);
  EXPECT_NO_THROW(make("adapt", {{"lb_lwr", 256}, {"constant_lookback", true}}));
  EXPECT_THROW(make("adapt", {{"wl_max", 16}, {"buff", 16}}), Error);
}

}  // namespace
}  // namespace bitdial::policies
