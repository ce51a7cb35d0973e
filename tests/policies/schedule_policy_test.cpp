#include "bitdial/policies/schedule_policy.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "bitdial/core/error.h"
#include "bitdial/policies/registry.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::policies {
namespace {

using bitdial::testing::VectorProbe;
using nlohmann::json;

std::vector<LayerInfo> resnet_layers() {
  return {{.name = "conv1", .is_first = true},
          {.name = "layer1.0.conv1"},
          {.name = "layer2.0.conv1"},
          {.name = "layer3.0.conv2"},
          {.name = "fc", .kind = LayerKind::kLinear, .is_last = true}};
}

std::vector<int> forward_bits_at(Policy& policy, int64_t epoch, int64_t steps_per_epoch = 10,
                                 int64_t total_epochs = 160) {
  policy.begin_step({.step = epoch * steps_per_epoch,
                     .epoch = epoch,
                     .steps_per_epoch = steps_per_epoch,
                     .total_steps = total_epochs * steps_per_epoch});
  std::vector<int> bits;
  for (int layer = 0; layer < 4; ++layer) {
    bits.push_back(policy.evaluation_format({layer, TensorRole::kInput}).word_length);
  }
  return bits;
}

// specs/ldp.md, Table 1: [4,6,8][6,8,4][8,4,6] over the three stages, 30 epochs each, then 8.
TEST(Schedule, RowsOfLdpTableOne) {
  using Bits = std::vector<int>;
  const auto attached = [](const std::string& spec) {
    auto policy = make(spec);
    policy->attach(resnet_layers());
    return policy;
  };
  const auto first = attached("schedule:ldp-1"), second = attached("schedule:ldp-2"),
             third = attached("schedule:ldp-3");
  for (const int64_t epoch : {0, 29}) EXPECT_EQ(forward_bits_at(*first, epoch), (Bits{8, 4, 6, 8})) << epoch;
  for (const int64_t epoch : {30, 59}) EXPECT_EQ(forward_bits_at(*first, epoch), (Bits{8, 6, 8, 4})) << epoch;
  for (const int64_t epoch : {60, 89}) EXPECT_EQ(forward_bits_at(*first, epoch), (Bits{8, 8, 4, 6})) << epoch;
  for (const int64_t epoch : {90, 159})
    EXPECT_EQ(forward_bits_at(*first, epoch), (Bits{8, 8, 8, 8})) << epoch;
  EXPECT_EQ(forward_bits_at(*second, 0), (Bits{8, 6, 8, 4}));
  EXPECT_EQ(forward_bits_at(*second, 30), (Bits{8, 8, 4, 6}));
  EXPECT_EQ(forward_bits_at(*second, 60), (Bits{8, 4, 6, 8}));
  EXPECT_EQ(forward_bits_at(*third, 0), (Bits{8, 8, 4, 6}));
  EXPECT_EQ(forward_bits_at(*third, 30), (Bits{8, 4, 6, 8}));
  EXPECT_EQ(forward_bits_at(*third, 60), (Bits{8, 6, 8, 4}));
  EXPECT_EQ(third->evaluation_format({1, TensorRole::kGradBprop}).word_length, 8);
  EXPECT_TRUE(third->evaluation_format({4, TensorRole::kWeight}).is_float());
}

TEST(Schedule, StretchesToTheLengthOfTheRun) {
  using Bits = std::vector<int>;
  auto policy = make("schedule:ldp-1", {{"stretch", true}});
  policy->attach(resnet_layers());
  EXPECT_EQ(forward_bits_at(*policy, 0, 10, 16), (Bits{8, 4, 6, 8}));
  EXPECT_EQ(forward_bits_at(*policy, 2, 10, 16), (Bits{8, 4, 6, 8}));
  EXPECT_EQ(forward_bits_at(*policy, 3, 10, 16), (Bits{8, 6, 8, 4})) << "epoch 3 of 16 is 30 of 160";
  EXPECT_EQ(forward_bits_at(*policy, 9, 10, 16), (Bits{8, 8, 8, 8}));
  EXPECT_THROW(make("schedule", {{"stretch", true}}), Error) << "a table without length";
}

TEST(Schedule, FilesInTomlAndJson) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / fmt::format("bitdial-schedule-{}", ::getpid());
  fs::create_directories(folder);
  std::ofstream(folder / "table.toml") << "epochs = [0, 2.5]\nforward = 6\ngradient = [8, 16]\n"
                                          "[[layer]]\nmatch = [\"layer1.*\", \"layer2.*\"]\n"
                                          "forward = [4, 0]\ngradient = 12\n";
  const json same{{"epochs", {0, 2.5}},
                  {"forward", 6},
                  {"gradient", {8, 16}},
                  {"layer", {{{"match", {"layer1.*", "layer2.*"}}, {"forward", {4, 0}}, {"gradient", 12}}}}};
  std::ofstream(folder / "table.json") << same;
  for (const json& options : {json{{"file", (folder / "table.toml").string()}},
                              json{{"file", (folder / "table.json").string()}}, json{{"table", same}}}) {
    auto policy = make("schedule", options);
    policy->attach(resnet_layers());
    EXPECT_EQ(forward_bits_at(*policy, 2), (std::vector{6, 4, 4, 6}));
    EXPECT_EQ(policy->evaluation_format({0, TensorRole::kGradBprop}).word_length, 8);
    EXPECT_EQ(policy->evaluation_format({1, TensorRole::kGradBprop}).word_length, 12);
    EXPECT_EQ(forward_bits_at(*policy, 3), (std::vector{6, 32, 32, 6}));
    EXPECT_EQ(policy->evaluation_format({0, TensorRole::kGradBprop}).word_length, 16);
    EXPECT_TRUE(policy->evaluation_format({1, TensorRole::kInput}).is_float());
  }
  EXPECT_EQ(make("schedule:" + (folder / "table.toml").string())->name(), "schedule");
  std::ofstream(folder / "bad.toml") << "epochs = [0\n";
  EXPECT_THROW(make("schedule", {{"file", (folder / "bad.toml").string()}}), Error);
  EXPECT_THROW(make("schedule", {{"file", (folder / "none.toml").string()}}), Error);
  fs::remove_all(folder);
}

TEST(Schedule, Errors) {
  const auto error_of = [](const json& table) {
    try {
      parse_schedule(table, "t");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(error_of({{"epoch", {0}}}), "[schedule] t: unknown key \"epoch\"; did you mean \"epochs\"?");
  EXPECT_EQ(error_of({{"epochs", {0, 5}}, {"forward", {8}}}),
            "[schedule] t: forward has 1 columns, epochs has 2");
  EXPECT_EQ(error_of({{"forward", 1}}), "[schedule] t: forward must be 0 or 2 .. 32, got 1");
  EXPECT_NE(error_of({{"epochs", {1}}}), "no error");
  EXPECT_NE(error_of({{"epochs", {0, 3, 3}}}), "no error");
  EXPECT_NE(error_of({{"layer", {{{"forward", 4}}}}}), "no error") << "a row without match";
  EXPECT_NE(error_of({{"length", 0}}), "no error");
  auto unmatched = make("schedule", {{"table", {{"layer", {{{"match", "layer9.*"}}}}}}});
  EXPECT_THROW(unmatched->attach(resnet_layers()), Error);
  EXPECT_THROW(make("schedule", {{"preset", "ldp-1"}, {"file", "a"}}), Error);
}

TEST(Schedule, StateInTheMiddle) {
  auto policy = make("schedule:ldp-1"), copy = make("schedule:ldp-1"), other = make("schedule:ldp-2");
  for (const auto& one : {policy, copy, other}) one->attach(resnet_layers());
  VectorProbe probe({1.0F});
  forward_bits_at(*policy, 45);
  EXPECT_EQ(policy->plan({1, TensorRole::kInput}, {.step = 450}, probe).reason,
            "column 1 of the table, from epoch 30");
  copy->load_state(json::parse(policy->state().dump()));
  EXPECT_EQ(copy->state(), policy->state());
  EXPECT_EQ(copy->evaluation_format({1, TensorRole::kInput}).word_length, 6);
  EXPECT_EQ(copy->plan({1, TensorRole::kInput}, {.step = 451}, probe).reason, "");
  EXPECT_THROW(other->load_state(policy->state()), Error) << "another table";
}

}  // namespace
}  // namespace bitdial::policies
