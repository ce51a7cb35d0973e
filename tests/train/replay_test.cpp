#include "bitdial/train/replay.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"
#include "bitdial/train/trainer.h"

namespace bitdial::train {
namespace {

namespace fs = std::filesystem;

/// Trains a small network for one epoch of seven steps and keeps its directory for the test.
class ReplayTest : public ::testing::Test {
 protected:
  ReplayTest()
      : run_(fs::temp_directory_path() / fmt::format("bitdial-replay-{}-{}", ::getpid(), count_++)) {}
  ~ReplayTest() override { fs::remove_all(run_); }

  ReplayReport train_and_replay(const std::string& policy, const std::vector<std::string>& settings = {}) {
    Recipe recipe;
    recipe.data.name = "shapes";
    recipe.data.train_images = 200;
    recipe.data.test_images = 20;
    recipe.data.batch_size = 32;
    recipe.model.name = "lenet5";
    recipe.train.epochs = 1;
    recipe.train.threads = 1;
    set_recipe_value(recipe, "precision.policy=" + policy);
    for (const std::string& setting : settings) set_recipe_value(recipe, setting);
    TrainOptions options;
    options.bar.stream = null_.get();
    options.bar.terminal = false;
    train(recipe, run_, options);
    return replay_run(run_);
  }

  static void expect_same(const ReplayReport& report, int64_t at_least) {
    EXPECT_GE(report.decisions, at_least);
    EXPECT_EQ(report.replayed, report.decisions);
    for (const ReplayDifference& difference : report.differences)
      ADD_FAILURE() << difference.layer << " " << difference.tensor << " at step " << difference.step << ": "
                    << difference.what << " " << difference.logged << ", replayed " << difference.replayed;
  }

  std::vector<nlohmann::json> lines() const {
    std::ifstream in(run_ / "precision.jsonl");
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(in, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }

  static bool has(const nlohmann::json& line, const std::string& key) {
    return line.contains(key) || (line.contains("evidence") && line.at("evidence").contains(key));
  }

  /// Evidence of the first line that has it, as text.
  std::string first_with(const std::string& key) const {
    for (const nlohmann::json& line : lines()) {
      if (has(line, key)) return line.at("evidence").at(key).dump();
    }
    throw Error("no line has " + key);
  }

  /// Changes one value of the first line that has it.
  void forge(const std::string& key, const nlohmann::json& value) {
    std::vector<nlohmann::json> all = lines();
    const auto first = std::ranges::find_if(all, [&](const auto& line) { return has(line, key); });
    ASSERT_NE(first, all.end());
    (first->contains(key) ? *first : first->at("evidence"))[key] = value;
    std::ofstream out(run_ / "precision.jsonl");
    for (const nlohmann::json& line : all) out << line.dump() << '\n';
  }

  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Closer> null_{std::fopen("/dev/null", "w")};
  inline static int count_ = 0;
  fs::path run_;
};

TEST_F(ReplayTest, AptDecidesAgainFromDiffAndRange) {
  expect_same(train_and_replay("apt", {"precision.options.log_all=true"}), 50);
  forge("Z", 1e6);
  const auto differences = replay_run(run_).differences;
  ASSERT_FALSE(differences.empty());
  EXPECT_EQ(differences.front().line, 1);
}

TEST_F(ReplayTest, CyclicBitsFollowFromTheStep) {
  expect_same(train_and_replay("cpt:3-8/8", {"precision.options.cycles=1"}), 10);
  forge("bits", 7);
  EXPECT_EQ(replay_run(run_).differences.size(), 1U);
}

TEST_F(ReplayTest, CyclesOfARunThatEndsWithItsSteps) {
  expect_same(
      train_and_replay("cpt:3-8/8", {"precision.options.cycles=1", "train.epochs=3", "train.steps=9"}), 10);
}

TEST_F(ReplayTest, RandomBitsFollowFromTheSeed) {
  expect_same(train_and_replay("random", {"precision.options.every=1"}), 10);
}

TEST_F(ReplayTest, LearntBitsFollowFromBeta) {
  expect_same(train_and_replay("ldp", {"precision.options.lr_beta=5.0"}), 10);
}

TEST_F(ReplayTest, StaticBitsAndOverridesAreInTheRecipe) {
  expect_same(train_and_replay("static:8/8/16"), 15);
}

TEST_F(ReplayTest, StagesOfPfqFollowFromItsLosses) {
  expect_same(train_and_replay("pfq", {"precision.options.eval_every=1", "precision.options.epsilon=10.0"}),
              10);
}

TEST_F(ReplayTest, BitsOfSbmAreInTheRecipe) { expect_same(train_and_replay("sbm"), 15); }

TEST_F(ReplayTest, ScheduledBitsFollowFromTheEpoch) {
  const fs::path table = run_.string() + ".toml";
  std::ofstream(table) << "epochs = [0, 1]\nforward = [4, 6]\ngradient = 8\n";
  const ReplayReport report = train_and_replay("schedule:" + table.string(), {"train.epochs=2"});
  fs::remove(table);
  expect_same(report, 10);
}

TEST_F(ReplayTest, EachOfTwoPoliciesDecidesAgain) {
  expect_same(
      train_and_replay("cpt:3-8/8", {"precision.gradient_policy=apt", "precision.gradient_options.T=0.0005",
                                     "precision.options.cycles=1"}),
      20);
}

TEST_F(ReplayTest, LevelsOfMuppetFollowFromItsDiversities) {
  // Every second step an evaluation, whose threshold is low.
  const ReplayReport report =
      train_and_replay("muppet", {"train.epochs=3", "precision.options.epoch_iterations=1",
                                  "precision.options.r=2", "precision.options.beta=0.1"});
  expect_same(report, 40);
  std::ifstream log(run_ / "precision.jsonl");
  const std::string text((std::istreambuf_iterator<char>(log)), {});
  EXPECT_NE(text.find("8 bits to 12 bits"), std::string::npos);
}

TEST_F(ReplayTest, AStaticScheduleOfMuppetIsInTheRecipe) {
  expect_same(train_and_replay("muppet", {"precision.options.epoch_iterations=1",
                                          "precision.options.static_schedule=1 3"}),
              30);
}

class AdaptReplayTest : public ReplayTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(AdaptReplayTest, SwitchesFollowFromTheSearchesLossesAndTheDiversity) {
  const ReplayReport report =
      train_and_replay(GetParam(), {"precision.options.lb_lwr=2", "precision.options.lb_upr=3"});
  expect_same(report, 15);
  // In a first search of <8,4> only WL has a choice: the first candidate that it looks at fails.
  const std::string search = first_with("KL_WL");
  forge("KL_WL", nlohmann::json::array({{4, 0.0}}));
  EXPECT_FALSE(replay_run(run_).differences.empty());
  forge("KL_WL", nlohmann::json::parse(search));
  EXPECT_TRUE(replay_run(run_).differences.empty());
  forge("bits", 30);
  EXPECT_EQ(replay_run(run_).differences.size(), 1U);
}

INSTANTIATE_TEST_SUITE_P(Family, AdaptReplayTest, ::testing::Values("adapt", "adept", "marvin"));

class GateReplayTest : public ReplayTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(GateReplayTest, CostAndSignFollowFromTheShares) {
  std::vector<std::string> settings{"model.name=resnet20-cifar", "data.train_images=64", "data.batch_size=8",
                                    "precision.options.log_every=2"};
  if (GetParam() == std::string_view("fractrain"))
    settings.insert(settings.end(), {"precision.options.eval_every=1", "precision.options.epsilon=10.0"});
  expect_same(train_and_replay(GetParam(), settings), 60);
}

INSTANTIATE_TEST_SUITE_P(Gates, GateReplayTest, ::testing::Values("dfq", "fractrain"));

TEST_F(ReplayTest, OnlyARunCanBeReplayed) { EXPECT_THROW(replay_run(run_ / "nothing"), Error); }

}  // namespace
}  // namespace bitdial::train
