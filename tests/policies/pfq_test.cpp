#include "bitdial/policies/pfq.h"

#include <gtest/gtest.h>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

// specs/fractrain.md: window 5, S frozen at epoch 10, epsilon decayed after switches 1 and 2 only, the window
// emptied, k <= 3.
TEST(PfqIndicator, SyntheticLosses) {
  PfqIndicator indicator;
  EXPECT_FALSE(indicator.end_epoch(2.0).switched);
  for (int e = 2; e <= 4; ++e) EXPECT_FALSE(indicator.end_epoch(1.0).switched) << e;
  EXPECT_DOUBLE_EQ(indicator.scale(), 1.25);
  const auto fifth = indicator.end_epoch(1.0);
  EXPECT_FALSE(fifth.switched) << "the first loss is still in the window";
  EXPECT_EQ(fifth.window, (std::vector<double>{2, 1, 1, 1, 1}));
  EXPECT_EQ(fifth.differences, (std::vector<double>{0, 0, 0, 1.0 / 1.2})) << "d_1 .. d_4 by S = 6 / 5";
  const auto sixth = indicator.end_epoch(1.0);
  EXPECT_TRUE(sixth.switched);
  EXPECT_EQ(sixth.stage, 1);
  EXPECT_EQ(sixth.epsilon, 0.05) << "that d was compared with";
  EXPECT_DOUBLE_EQ(indicator.epsilon(), 0.015);
  for (int e = 7; e <= 10; ++e)
    EXPECT_FALSE(indicator.end_epoch(1.0).switched) << "the window fills anew, " << e;
  EXPECT_DOUBLE_EQ(indicator.scale(), 1.1);
  EXPECT_TRUE(indicator.end_epoch(1.0).switched);
  EXPECT_DOUBLE_EQ(indicator.epsilon(), 0.0045);
  EXPECT_DOUBLE_EQ(indicator.scale(), 1.1) << "frozen after epoch 10";
  for (int e = 12; e <= 15; ++e) EXPECT_FALSE(indicator.end_epoch(1.0).switched);
  EXPECT_TRUE(indicator.end_epoch(1.0).switched);
  EXPECT_EQ(indicator.stage(), 3);
  EXPECT_DOUBLE_EQ(indicator.epsilon(), 0.0045) << "no decay after the last switch";
  for (int e = 17; e <= 40; ++e) EXPECT_FALSE(indicator.end_epoch(1.0).switched);
  EXPECT_EQ(indicator.stage(), 3);
  EXPECT_EQ(indicator.epochs(), 40);
}

TEST(PfqIndicator, ThresholdIsRelativeToS) {
  const auto switches = [](double last) {
    PfqIndicator indicator({.epsilon = 0.05});
    for (int e = 0; e < 4; ++e) indicator.end_epoch(4.0);
    return indicator.end_epoch(last).switched;
  };
  // S = (16 + l) / 5, so |4 - l| <= 0.05 S from l = 3.84 / 1.01 to 4.16 / 0.99.
  EXPECT_TRUE(switches(3.84 / 1.01 + 1e-9));
  EXPECT_FALSE(switches(3.84 / 1.01 - 1e-9));
  EXPECT_TRUE(switches(4.16 / 0.99 - 1e-9)) << "a rise counts as well";
  EXPECT_FALSE(switches(4.16 / 0.99 + 1e-9));
}

TEST(PfqIndicator, EveryDifferenceMustBeSmall) {
  PfqIndicator indicator({.epsilon = 0.05});
  for (const double loss : {1.0, 1.0, 1.2, 1.0, 1.0, 1.0, 1.0})
    EXPECT_FALSE(indicator.end_epoch(loss).switched);
  EXPECT_TRUE(indicator.end_epoch(1.0).switched) << "the 1.2 has left the window";
  EXPECT_THROW(indicator.end_epoch(std::nan("")), Error);
}

TEST(PfqIndicator, StateInTheMiddle) {
  PfqIndicator whole, part;
  const auto loss = [](int e) { return 1.0 + 2.0 / (e * e); };
  for (int e = 1; e <= 17; ++e) whole.end_epoch(loss(e)), part.end_epoch(loss(e));
  PfqIndicator resumed;
  resumed.load_state(json::parse(part.state().dump()));
  for (int e = 18; e <= 60; ++e) {
    EXPECT_EQ(whole.end_epoch(loss(e)).switched, resumed.end_epoch(loss(e)).switched) << e;
    EXPECT_EQ(whole.state(), resumed.state()) << e;
  }
  EXPECT_EQ(whole.stage(), 3);
}

std::shared_ptr<Policy> attached_pfq(const std::string& spec, const json& options = json::object()) {
  auto policy = make(spec, options);
  policy->attach(std::vector<LayerInfo>{{.name = "conv1", .kernel = 3, .is_first = true},
                                        {.name = "fc", .kind = LayerKind::kLinear, .is_last = true}});
  return policy;
}

int pfq_bits(Policy& policy, TensorRole role) { return policy.evaluation_format({0, role}).word_length; }

TEST(Pfq, Ladder) {
  const auto policy = attached_pfq("pfq", {{"eval_every", 2}});
  VectorProbe probe({1.0F});
  std::vector<std::pair<int, int>> ladder;
  int64_t step = 0;
  for (int e = 0; e < 20; ++e) {
    for (int i = 0; i < 2; ++i, ++step) {
      policy->begin_step({.step = step});
      // Losses of 0.5 and 1.5: their mean counts.
      policy->end_step({.step = step}, {.loss = 0.5 + i});
    }
    const std::pair now{pfq_bits(*policy, TensorRole::kInput), pfq_bits(*policy, TensorRole::kGradBprop)};
    if (ladder.empty() || ladder.back() != now) ladder.push_back(now);
  }
  EXPECT_EQ(ladder, (std::vector<std::pair<int, int>>{{3, 6}, {4, 6}, {6, 8}, {8, 8}}));
  EXPECT_EQ(pfq_bits(*policy, TensorRole::kWeight), 8);
  EXPECT_TRUE(policy->evaluation_format({1, TensorRole::kWeight}).is_float());
}

TEST(Pfq, SaysWhatTheDecisionWasMadeFrom) {
  const auto policy = attached_pfq("pfq:3,8/6,8", {{"eval_every", 1}});
  VectorProbe probe({1.0F});
  const TensorPlan first = policy->plan({0, TensorRole::kInput}, {}, probe);
  EXPECT_EQ(first.reason, "stage 0 of 1");
  for (int i = 0; i < 5; ++i) policy->end_step({.step = i}, {.loss = 2.0});
  const TensorPlan next = policy->plan({0, TensorRole::kInput}, {.step = 5}, probe);
  EXPECT_EQ(next.format.word_length, 8);
  EXPECT_EQ(next.evidence.at("window"), (json::array({2.0, 2.0, 2.0, 2.0, 2.0})));
  EXPECT_EQ(next.evidence.at("d"), (json::array({0.0, 0.0, 0.0, 0.0})));
  EXPECT_EQ(next.evidence.at("epsilon"), 0.05);
  EXPECT_EQ(next.evidence.at("S"), 2.0);
  EXPECT_EQ(next.evidence.at("k"), 1);
  EXPECT_EQ(next.evidence.at("e"), 5);
}

TEST(Pfq, EpochsOfTheRun) {
  const auto policy = attached_pfq("pfq:3,8/6,8", {{"eval_every", "epoch"}});
  for (int e = 0; e < 5; ++e) {
    EXPECT_EQ(pfq_bits(*policy, TensorRole::kInput), 3);
    for (int i = 0; i < 30; ++i) policy->end_step({.step = 30 * e + i}, {.loss = 1.0});
    EpochReport report;
    report.epoch = e;
    policy->end_epoch(report);
  }
  EXPECT_EQ(pfq_bits(*policy, TensorRole::kInput), 8);
}

TEST(Pfq, WeightsOfTheirOwn) {
  const auto policy = attached_pfq("pfq", {{"weight_bits", 6}});
  EXPECT_EQ(pfq_bits(*policy, TensorRole::kWeight), 6);
  EXPECT_EQ(pfq_bits(*policy, TensorRole::kInput), 3);
  EXPECT_TRUE(
      attached_pfq("pfq", {{"weight_bits", 0}})->evaluation_format({0, TensorRole::kWeight}).is_float());
}

TEST(Pfq, StateInTheMiddleOfAnEpoch) {
  const auto policy = attached_pfq("pfq", {{"eval_every", 3}});
  for (int i = 0; i < 20; ++i) policy->end_step({.step = i}, {.loss = 1.0 + 0.001 * i});
  const auto copy = attached_pfq("pfq", {{"eval_every", 3}});
  copy->load_state(json::parse(policy->state().dump()));
  for (int i = 20; i < 60; ++i) {
    policy->end_step({.step = i}, {.loss = 1.0});
    copy->end_step({.step = i}, {.loss = 1.0});
    ASSERT_EQ(policy->state(), copy->state()) << i;
  }
  EXPECT_GT(pfq_bits(*copy, TensorRole::kInput), 3);
}

TEST(Pfq, Errors) {
  for (const char* bad :
       {"pfq:", "pfq:3,4", "pfq:3,4/6", "pfq:3/6/8", "pfq:3,x/6,6", "pfq:3,1/6,6", "pfq:3,33/6,6"}) {
    EXPECT_THROW(make(bad), Error) << bad;
  }
  EXPECT_THROW(make("pfq", {{"weight_bits", 1}}), Error);
}

}  // namespace
}  // namespace bitdial::policies
