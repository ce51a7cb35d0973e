#include "bitdial/policies/skeleton.h"

#include <gtest/gtest.h>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

constexpr TensorId kFirstDy{0, TensorRole::kGradBprop};
constexpr TensorId kOtherDy{1, TensorRole::kGradBprop};

std::shared_ptr<Policy> attached_skeleton(const json& options = json::object()) {
  auto policy = make("skeleton", options);
  policy->attach(std::vector<LayerInfo>{{.name = "conv1"}, {.name = "conv2"}});
  return policy;
}

TEST(Skeleton, WidensWhereGradientsVanish) {
  auto policy = attached_skeleton();
  VectorProbe probe({1.0F});
  EXPECT_EQ(policy->plan(kFirstDy, {}, probe).format.word_length, 8);
  policy->observe(kFirstDy, {}, {.count = 100, .zeros = 51});
  policy->observe(kOtherDy, {}, {.count = 100, .zeros = 50});
  EXPECT_EQ(policy->plan(kFirstDy, {}, probe).format.word_length, 8)
      << "decisions wait for the end of the epoch";
  policy->end_epoch({});
  const TensorPlan wide = policy->plan(kFirstDy, {.step = 1}, probe);
  EXPECT_EQ(wide.format.word_length, 16);
  EXPECT_EQ(wide.reason, "too many zero codes at 8 bits");
  EXPECT_EQ(wide.evidence.at("zero_share"), 0.51);
  EXPECT_EQ(policy->plan(kOtherDy, {.step = 1}, probe).format.word_length, 8);
  EXPECT_EQ(policy->plan({0, TensorRole::kWeight}, {.step = 1}, probe).format.word_length, 8);
  EXPECT_TRUE(policy->plan(kFirstDy, {.step = 2}, probe).reason.empty());
}

TEST(Skeleton, StateIsRestoredInMidEpoch) {
  VectorProbe probe({1.0F});
  auto whole = attached_skeleton({{"zero_fraction", 0.3}});
  whole->plan(kFirstDy, {}, probe);
  whole->observe(kFirstDy, {}, {.count = 3, .zeros = 1});
  auto resumed = attached_skeleton({{"zero_fraction", 0.3}});
  resumed->load_state(json::parse(whole->state().dump()));
  for (const auto& policy : {whole, resumed}) {
    policy->observe(kFirstDy, {}, {.count = 4, .zeros = 1});
    policy->end_epoch({});
  }
  EXPECT_EQ(resumed->state(), whole->state());
  EXPECT_EQ(resumed->plan(kFirstDy, {.step = 2}, probe).evidence,
            whole->plan(kFirstDy, {.step = 2}, probe).evidence);
  EXPECT_THROW(resumed->load_state({{"layers", json::array()}}), Error);
}

}  // namespace
}  // namespace bitdial::policies
