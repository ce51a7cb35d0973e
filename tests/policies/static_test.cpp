#include <gtest/gtest.h>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

std::shared_ptr<Policy> attached(std::string_view spec, const json& options = json::object()) {
  auto policy = make(spec, options);
  policy->attach(std::vector<LayerInfo>{{.name = "conv1"}, {.name = "fc", .kind = LayerKind::kLinear}});
  return policy;
}

Format format_of(Policy& policy, TensorRole role) {
  VectorProbe probe({1.0F, -2.0F});
  const TensorPlan plan = policy.plan({0, role}, {}, probe);
  EXPECT_EQ(probe.measures, 0) << "static formats need no look at the data";
  EXPECT_FALSE(plan.params.has_value());
  EXPECT_EQ(plan.format, policy.evaluation_format({0, role}));
  return plan.format;
}

TEST(Static, Defaults) {
  const auto policy = attached("static");
  const Format w = format_of(*policy, TensorRole::kWeight);
  EXPECT_EQ(
      w, (Format{.rule = ScaleRule::kSymmetric, .word_length = 8, .range_source = RangeSource::kPrevious}));
  const Format x = format_of(*policy, TensorRole::kInput);
  EXPECT_EQ(x, (Format{.rule = ScaleRule::kAffine,
                       .word_length = 8,
                       .exact_zero = true,
                       .range_source = RangeSource::kPrevious}));
  EXPECT_EQ(container(x), Container::kUInt8);
  EXPECT_EQ(format_of(*policy, TensorRole::kInputWtgrad), x);
  const Format dy = format_of(*policy, TensorRole::kGradBprop);
  EXPECT_EQ(dy, (Format{.rule = ScaleRule::kSymmetric,
                        .word_length = 8,
                        .rounding = Rounding::kStochastic,
                        .range_source = RangeSource::kPrevious}));
  EXPECT_EQ(format_of(*policy, TensorRole::kGradWtgrad), dy) << "one dY feeds both gradients";
  EXPECT_EQ(policy->normalization(), Normalization::kBatch);
  EXPECT_TRUE(policy->quantizes());
}

TEST(Static, WidthsFromTheName) {
  const auto policy = attached("static:4/6/16");
  EXPECT_EQ(format_of(*policy, TensorRole::kWeight).word_length, 4);
  EXPECT_EQ(format_of(*policy, TensorRole::kInput).word_length, 6);
  EXPECT_EQ(format_of(*policy, TensorRole::kGradBprop).word_length, 16);
  EXPECT_EQ(format_of(*policy, TensorRole::kGradWtgrad).word_length, 16);
  for (int bits = 2; bits <= 16; ++bits) {
    const auto uniform = attached(fmt::format("static:{0}/{0}/{0}", bits));
    for (const TensorRole role : {TensorRole::kWeight, TensorRole::kInput, TensorRole::kGradBprop}) {
      EXPECT_TRUE(has_integer_codes(format_of(*uniform, role)));
    }
  }
  const auto wide = attached("static:17/24/32");
  EXPECT_EQ(container(format_of(*wide, TensorRole::kWeight)), Container::kFloat32);
  EXPECT_FALSE(format_of(*wide, TensorRole::kInput).is_float());
  EXPECT_TRUE(format_of(*wide, TensorRole::kGradBprop).is_float());
}

TEST(Static, Options) {
  const auto policy = attached("static", {{"weight_granularity", "channel"},
                                          {"weight_rule", "power_of_two"},
                                          {"activation_rule", "symmetric"},
                                          {"activation_rounding", "stochastic"},
                                          {"gradient_rounding", "nearest"},
                                          {"gradient_wtgrad_bits", 16},
                                          {"range", "exact"},
                                          {"normalization", "range"}});
  const Format w = format_of(*policy, TensorRole::kWeight);
  EXPECT_EQ(w.rule, ScaleRule::kPowerOfTwo);
  EXPECT_EQ(w.granularity, Granularity::kChannel);
  EXPECT_EQ(w.range_source, RangeSource::kExact);
  const Format x = format_of(*policy, TensorRole::kInput);
  EXPECT_EQ(x.rule, ScaleRule::kSymmetric);
  EXPECT_FALSE(x.exact_zero) << "only affine formats carry the flag";
  EXPECT_EQ(x.rounding, Rounding::kStochastic);
  EXPECT_EQ(format_of(*policy, TensorRole::kGradBprop).word_length, 8);
  EXPECT_EQ(format_of(*policy, TensorRole::kGradWtgrad).word_length, 16);
  EXPECT_EQ(format_of(*policy, TensorRole::kGradWtgrad).rounding, Rounding::kNearestEven);
  EXPECT_EQ(policy->normalization(), Normalization::kRange);
}

// specs/sbm.md: gemmlowp's affine quantisers, B3's weights per output channel, bifurcated gradient, Range BN.
TEST(Static, PresetSbm) {
  for (const char* spec : {"sbm", "static:sbm"}) {
    const auto policy = attached(spec);
    const Format w = format_of(*policy, TensorRole::kWeight);
    EXPECT_EQ(w,
              (Format{.rule = ScaleRule::kAffine, .word_length = 8, .granularity = Granularity::kChannel}));
    const Format x = format_of(*policy, TensorRole::kInput);
    EXPECT_EQ(x, (Format{.rule = ScaleRule::kAffine,
                         .word_length = 8,
                         .range_statistic = RangeStatistic::kSampleMean}));
    EXPECT_EQ(format_of(*policy, TensorRole::kInputWtgrad), x);
    const Format dy = format_of(*policy, TensorRole::kGradBprop);
    EXPECT_EQ(dy, (Format{.rule = ScaleRule::kAffine, .word_length = 8, .rounding = Rounding::kStochastic}));
    EXPECT_TRUE(format_of(*policy, TensorRole::kGradWtgrad).is_float());
    EXPECT_EQ(policy->normalization(), Normalization::kRange);
    const RunningRange running = policy->running_range({0, TensorRole::kInput});
    EXPECT_EQ(running.momentum, 0.1);
    EXPECT_TRUE(running.start_at_zero);
    EXPECT_EQ(policy->running_range({0, TensorRole::kWeight}).momentum, 0.0);
  }
  const auto b1 = attached("sbm", {{"weight_granularity", "tensor"},
                                   {"activation_rounding", "stochastic"},
                                   {"gradient_wtgrad_bits", 16},
                                   {"running_start", "first_value"}});
  EXPECT_EQ(format_of(*b1, TensorRole::kInput).rounding, Rounding::kStochastic);
  EXPECT_EQ(format_of(*b1, TensorRole::kGradWtgrad).word_length, 16);
  EXPECT_FALSE(b1->running_range({0, TensorRole::kInput}).start_at_zero);
}

// Every operand is announced once in a run, interrupted or not.
TEST(Static, AnnouncesEachOperandOnce) {
  VectorProbe probe({1.0F});
  auto first = attached("static");
  EXPECT_EQ(first->plan({0, TensorRole::kWeight}, {}, probe).reason, "fixed by static");
  EXPECT_EQ(first->plan({0, TensorRole::kWeight}, {.step = 1}, probe).reason, "");
  auto second = attached("static");
  second->load_state(json::parse(first->state().dump()));
  EXPECT_EQ(second->plan({0, TensorRole::kWeight}, {.step = 2}, probe).reason, "");
  EXPECT_NE(second->plan({1, TensorRole::kWeight}, {.step = 2}, probe).reason, "");
  EXPECT_THROW(second->load_state({{"announced", json::array()}}), Error);
}

TEST(Static, EvaluationAnnouncesNothing) {
  VectorProbe probe({1.0F});
  auto policy = attached("static");
  EXPECT_EQ(policy->plan({0, TensorRole::kWeight}, {.training = false}, probe).reason, "");
  EXPECT_NE(policy->plan({0, TensorRole::kWeight}, {}, probe).reason, "");
}

}  // namespace
}  // namespace bitdial::policies
