#include "bitdial/policies/overrides.h"

#include <gtest/gtest.h>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

std::vector<LayerInfo> layers() {
  return {{.name = "conv1"},
          {.name = "layer1.0.conv1"},
          {.name = "layer1.0.conv2"},
          {.name = "fc", .kind = LayerKind::kLinear}};
}

TEST(Overrides, Patterns) {
  EXPECT_TRUE(matches_pattern("layer1.0.conv1", "layer1.*"));
  EXPECT_TRUE(matches_pattern("layer1.0.conv1", "*conv1"));
  EXPECT_TRUE(matches_pattern("layer1.0.conv1", "l*.?.c*1"));
  EXPECT_TRUE(matches_pattern("fc", "fc"));
  EXPECT_TRUE(matches_pattern("fc", "fc*"));
  EXPECT_TRUE(matches_pattern("", "*"));
  EXPECT_FALSE(matches_pattern("fc", "f"));
  EXPECT_FALSE(matches_pattern("fc", "?fc"));
  EXPECT_FALSE(matches_pattern("layer1.0.conv1", "*conv2"));
}

TEST(Overrides, RouteLayersAndTensors) {
  auto policy = with_overrides(make("static:8/8/8"), {{{"conv1", "fc"}, {}, make("float32")},
                                                      {{}, {"dy"}, make("apt")},
                                                      {{"layer1.*"}, {"w"}, make("static:4/8/8")}});
  policy->attach(layers());
  VectorProbe probe({1.0F, -0.5F});
  const auto format = [&](int layer, TensorRole role) {
    return policy->plan({layer, role}, {}, probe).format;
  };
  EXPECT_TRUE(format(0, TensorRole::kWeight).is_float());
  EXPECT_TRUE(format(3, TensorRole::kGradBprop).is_float()) << "the first match counts";
  EXPECT_EQ(format(1, TensorRole::kGradBprop).rule, ScaleRule::kPowerOfTwo);
  EXPECT_EQ(format(1, TensorRole::kGradWtgrad).rule, ScaleRule::kPowerOfTwo);
  EXPECT_EQ(format(1, TensorRole::kWeight).word_length, 4);
  EXPECT_EQ(format(1, TensorRole::kInput).word_length, 8);
  EXPECT_EQ(policy->name(), "static");
  EXPECT_TRUE(policy->quantizes());

  auto copy = with_overrides(make("static:8/8/8"), {{{"conv1", "fc"}, {}, make("float32")},
                                                    {{}, {"dy"}, make("apt")},
                                                    {{"layer1.*"}, {"w"}, make("static:4/8/8")}});
  copy->attach(layers());
  copy->load_state(json::parse(policy->state().dump()));
  EXPECT_EQ(copy->state(), policy->state());
  EXPECT_THROW(copy->load_state(json::array()), Error);
}

TEST(Overrides, FirstAndLastLayer) {
  std::vector<LayerInfo> all = layers();
  all.front().is_first = all.back().is_last = true;
  auto policy = with_overrides(make("static:4/4/4"),
                               {{{"@first"}, {}, make("float32")}, {{"@last"}, {"w"}, make("static:8/8/8")}});
  policy->attach(all);
  EXPECT_TRUE(policy->evaluation_format({0, TensorRole::kWeight}).is_float());
  EXPECT_EQ(policy->evaluation_format({1, TensorRole::kWeight}).word_length, 4);
  EXPECT_EQ(policy->evaluation_format({3, TensorRole::kWeight}).word_length, 8);
  EXPECT_EQ(policy->evaluation_format({3, TensorRole::kInput}).word_length, 4);
}

TEST(Overrides, GradientPolicyRestsWhereTheBaseDoesNotQuantise) {
  const auto gradient_format = [](std::string_view base) {
    auto policy = with_overrides(make(base), {gradient_override(make("static:8/8/16"))});
    policy->attach(layers());
    return policy->evaluation_format({3, TensorRole::kGradBprop});
  };
  EXPECT_TRUE(gradient_format("static:shared:8/8").is_float()) << "a linear layer";
  EXPECT_EQ(gradient_format("static:8/8/8").word_length, 16);
  EXPECT_EQ(gradient_format("float32").word_length, 16) << "it was asked for, and nothing else is";
}

TEST(Overrides, FinalPrecisionIsTheBasesBusiness) {
  auto policy = with_overrides(make("cpt:3-8/8"), {{{"conv1"}, {}, make("static:6/6/6")}});
  policy->attach(layers());
  EXPECT_TRUE(policy->has_final_precision());
  EXPECT_EQ(policy->final_evaluation_format({0, TensorRole::kWeight}).word_length, 6);
  EXPECT_EQ(policy->final_evaluation_format({1, TensorRole::kWeight}).word_length, 8);
  EXPECT_EQ(policy->evaluation_format({1, TensorRole::kWeight}).word_length, 3);
}

TEST(Overrides, Errors) {
  auto unmatched = with_overrides(make("static"), {{{"conv9"}, {}, make("float32")}});
  try {
    unmatched->attach(layers());
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean \"conv1\""), std::string::npos) << error.what();
  }
  EXPECT_THROW(with_overrides(make("static"), {{{}, {"gradient"}, make("float32")}}), Error);
  const auto base = make("static");
  EXPECT_EQ(with_overrides(base, {}), base);
}

}  // namespace
}  // namespace bitdial::policies
