#include <gtest/gtest.h>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "bitdial/policies/shared_quantizer.h"
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

// The FW/BW baseline of CPT, PFQ, LDP and FracTrain.
TEST(Static, PresetShared) {
  for (const auto& [spec, forward, gradient] :
       std::vector<std::tuple<std::string, int, int>>{{"static:shared", 8, 8},
                                                      {"static:shared:8/8", 8, 8},
                                                      {"static:shared:6/6", 6, 6},
                                                      {"static:shared:6/8", 6, 8},
                                                      {"static:shared:4/6", 4, 6},
                                                      {"static:shared:8/12", 8, 12},
                                                      {"static:shared:8/16", 8, 16},
                                                      {"static:shared:16/16", 16, 16}}) {
    const auto policy = attached(spec);
    EXPECT_EQ(format_of(*policy, TensorRole::kWeight), shared_format(TensorRole::kWeight, forward)) << spec;
    EXPECT_EQ(format_of(*policy, TensorRole::kInput), shared_format(TensorRole::kInput, forward)) << spec;
    EXPECT_EQ(format_of(*policy, TensorRole::kInputWtgrad), shared_format(TensorRole::kInput, forward));
    EXPECT_EQ(format_of(*policy, TensorRole::kGradBprop), shared_format(TensorRole::kGradBprop, gradient));
    EXPECT_EQ(format_of(*policy, TensorRole::kGradWtgrad), shared_format(TensorRole::kGradBprop, gradient));
    EXPECT_TRUE(policy->evaluation_format({1, TensorRole::kWeight}).is_float()) << "linear layers";
    EXPECT_EQ(policy->normalization(), Normalization::kBatch);
    EXPECT_EQ(policy->between(), Between::kFloat32);
    const RunningRange running = policy->running_range({0, TensorRole::kInput});
    EXPECT_EQ(running.momentum, 0.9);
    EXPECT_TRUE(running.start_at_zero);
  }
  for (const char* bad : {"static:shared:", "static:shared:8", "static:shared:8/8/8", "static:sbm"}) {
    EXPECT_THROW(make(bad), Error) << bad;
  }
  auto depthwise = make("static:shared:4/6");
  depthwise->attach(std::vector<LayerInfo>{{.name = "dw", .kind = LayerKind::kDepthwiseConv2d}});
  EXPECT_EQ(depthwise->evaluation_format({0, TensorRole::kWeight}).word_length, 8);
  EXPECT_EQ(depthwise->evaluation_format({0, TensorRole::kGradBprop}).word_length, 16);
}

// FracTrain's static mixed mode: act_fw, act_bw, grad_act_error, grad_act_gc, weight_bits.
TEST(Static, EveryOperandOfEveryGemmHasItsOwnWidth) {
  const auto policy = attached(
      "static:4/6/8", {{"preset", "shared"}, {"activation_wtgrad_bits", 3}, {"gradient_wtgrad_bits", 12}});
  EXPECT_EQ(format_of(*policy, TensorRole::kWeight).word_length, 4);
  EXPECT_EQ(format_of(*policy, TensorRole::kInput).word_length, 6);
  EXPECT_EQ(format_of(*policy, TensorRole::kInputWtgrad), shared_format(TensorRole::kInput, 3));
  EXPECT_EQ(format_of(*policy, TensorRole::kGradBprop).word_length, 8);
  EXPECT_EQ(format_of(*policy, TensorRole::kGradWtgrad), shared_format(TensorRole::kGradWtgrad, 12));
  EXPECT_THROW(make("static", {{"activation_wtgrad_bits", 1}}), Error);
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
