// Policies of papers in whole runs: replay, both arithmetics, resuming, the range test.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "bitdial/core/error.h"
#include "bitdial/models/network.h"
#include "bitdial/nn/session.h"
#include "bitdial/policies/registry.h"
#include "bitdial/train/range_test.h"
#include "bitdial/train/setup.h"
#include "bitdial/train/trainer.h"
#include "tests/policies/vector_probe.h"

namespace bitdial::train {
namespace {

using nlohmann::json;

constexpr int64_t kStepsPerEpoch = 6;

class PaperPolicyRun : public ::testing::Test {
 protected:
  PaperPolicyRun()
      : folder_(std::filesystem::temp_directory_path() /
                fmt::format("bitdial-paper-{}-{}", ::getpid(),
                            ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    options_.bar.stream = null_.get();
    options_.bar.terminal = false;
  }
  ~PaperPolicyRun() override { std::filesystem::remove_all(folder_); }

  /// LeNet-5, two epochs of 6 steps: well under a second.
  static Recipe recipe_of(const std::string& policy, const json& options = json::object()) {
    Recipe recipe;
    recipe.data.name = "shapes";
    recipe.data.train_images = 96;
    recipe.data.test_images = 32;
    recipe.data.batch_size = 16;
    recipe.model.name = "lenet5";
    recipe.train.epochs = 2;
    recipe.train.threads = 1;
    recipe.train.log_every = 1;
    recipe.optimizer.learning_rate = 0.05;
    recipe.precision.policy = policy;
    recipe.precision.options = options;
    return recipe;
  }

  static std::vector<Recipe> recipes() {
    const json table{
        {"epochs", {0, 1}}, {"forward", {4, 8}}, {"layer", {{{"match", "conv1"}, {"forward", 6}}}}};
    std::vector<Recipe> all{recipe_of("static:shared:6/8"),
                            recipe_of("sbm"),
                            recipe_of("cpt:3-8/8", {{"cycles", 2}}),
                            recipe_of("pfq", {{"eval_every", 1}, {"epsilon", 100.0}, {"alpha", 1.0}}),
                            recipe_of("random", {{"every", 2}, {"gradient", "same"}, {"scope", "layer"}}),
                            recipe_of("schedule", {{"table", table}})};
    return all;
  }

  std::filesystem::path run_folder(const std::string& name) const { return folder_ / name; }

  static std::vector<json> lines_of(const std::filesystem::path& path) {
    std::vector<json> lines;
    std::ifstream stream(path);
    for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
    return lines;
  }

  using Decision = std::tuple<int64_t, std::string, std::string, int, std::string, std::string>;

  static std::vector<Decision> recorded_decisions(const std::filesystem::path& run) {
    std::vector<Decision> decisions;
    for (const json& line : lines_of(run / "precision.jsonl")) {
      decisions.emplace_back(line.at("step"), line.at("layer"), line.at("tensor"), line.at("bits"),
                             line.at("reason"), line.at("evidence").dump());
    }
    std::sort(decisions.begin(), decisions.end());
    return decisions;
  }

  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Closer> null_{std::fopen("/dev/null", "w")};
  std::filesystem::path folder_;
  TrainOptions options_;
};

std::vector<LayerInfo> layers_of_network(const Recipe& recipe) {
  const auto policy = policies::make("float32");
  const auto network = models::make(recipe.model.name,
                                    model_options(recipe, *open_split(recipe, data::Split::kTrain), *policy));
  nn::Session session(policy);
  session.attach(*network);
  return session.layers();
}

// precision.jsonl follows from the policy, the layers and the losses.
TEST_F(PaperPolicyRun, ReplaysFromThePolicyAlone) {
  for (const Recipe& recipe : recipes()) {
    SCOPED_TRACE(recipe.precision.policy);
    const auto run = run_folder("recorded-" + recipe.precision.policy.substr(0, 3));
    train(recipe, run, options_);
    std::map<int64_t, double> losses;
    for (const json& line : lines_of(run / "metrics.jsonl")) {
      if (line.at("kind") == "step") losses[line.at("step")] = line.at("loss");
    }
    ASSERT_EQ(std::ssize(losses), 2 * kStepsPerEpoch);

    const auto policy = make_policy(recipe.precision);
    const std::vector<LayerInfo> layers = layers_of_network(recipe);
    policy->attach(layers);
    bitdial::testing::VectorProbe probe({1.0F});
    std::vector<Decision> decisions;
    const auto ask = [&](const StepInfo& step, int layer, TensorRole role) {
      const TensorPlan plan = policy->plan({layer, role}, step, probe);
      if (plan.reason.empty() || role == TensorRole::kInputWtgrad) return;  // X's one line serves both
      decisions.emplace_back(step.step, layers[static_cast<size_t>(layer)].name, to_string(role),
                             plan.format.word_length, plan.reason, plan.evidence.dump());
    };
    for (const auto& [step, loss] : losses) {
      const StepInfo info{.step = step,
                          .epoch = step / kStepsPerEpoch,
                          .steps_per_epoch = kStepsPerEpoch,
                          .total_steps = 2 * kStepsPerEpoch};
      policy->begin_step(info);
      for (int layer = 0; layer < std::ssize(layers); ++layer) {
        for (const TensorRole role : {TensorRole::kWeight, TensorRole::kInput, TensorRole::kInputWtgrad}) {
          ask(info, layer, role);
        }
      }
      for (int layer = static_cast<int>(layers.size()) - 1; layer >= 0; --layer) {
        if (layer > 0) ask(info, layer, TensorRole::kGradBprop);
        ask(info, layer, TensorRole::kGradWtgrad);
      }
      policy->end_step(info, {.loss = loss});
    }
    std::sort(decisions.begin(), decisions.end());
    EXPECT_GT(decisions.size(), layers.size());
    EXPECT_EQ(decisions, recorded_decisions(run));
    EXPECT_EQ(probe.measures, 0) << "these policies look at no tensor";
  }
}

TEST_F(PaperPolicyRun, BothArithmeticsDecideAlike) {
  for (Recipe recipe : recipes()) {
    SCOPED_TRACE(recipe.precision.policy);
    const std::string name = recipe.precision.policy.substr(0, 3);
    std::vector<std::vector<Decision>> decisions;
    std::vector<double> first_losses;
    for (const char* arithmetic : {"integer", "simulated"}) {
      recipe.precision.arithmetic = arithmetic;
      recipe.precision.reduced_axis = "requantise";
      const auto run = run_folder(name + arithmetic);
      train(recipe, run, options_);
      decisions.push_back(recorded_decisions(run));
      for (Decision& decision : decisions.back())
        std::get<5>(decision).clear();  // losses differ in last bits
      first_losses.push_back(lines_of(run / "metrics.jsonl").front().at("loss"));
    }
    EXPECT_EQ(decisions[0], decisions[1]);
    EXPECT_NEAR(first_losses[0], first_losses[1], 1e-4 * first_losses[1]);
  }
}

// A stop in the middle leaves no trace in the log or in the evaluation.
TEST_F(PaperPolicyRun, ResumesInTheMiddle) {
  for (const Recipe& recipe : recipes()) {
    SCOPED_TRACE(recipe.precision.policy);
    const std::string name = recipe.precision.policy.substr(0, 3);
    const TrainSummary whole = train(recipe, run_folder(name + "whole"), options_);
    TrainOptions stops = options_;
    stops.stop = [asked = 0]() mutable { return ++asked >= 8; };
    ASSERT_FALSE(train(recipe, run_folder(name + "parts"), stops).finished);
    const TrainSummary parts = resume(run_folder(name + "parts"), options_);
    EXPECT_EQ(whole.evaluation->loss, parts.evaluation->loss);
    EXPECT_EQ(recorded_decisions(run_folder(name + "whole")), recorded_decisions(run_folder(name + "parts")));
  }
}

TEST_F(PaperPolicyRun, CptIsEvaluatedTwice) {
  const Recipe recipe = recipe_of("cpt:2-8/8", {{"cycles", 1}});
  const TrainSummary summary = train(recipe, run_folder("cpt"), options_);
  std::vector<json> epochs;
  for (const json& line : lines_of(run_folder("cpt") / "metrics.jsonl")) {
    if (line.at("kind") == "epoch") epochs.push_back(line);
  }
  ASSERT_EQ(epochs.size(), 2U);
  EXPECT_NE(epochs[0].at("final_loss"), epochs[0].at("loss")) << "in the middle of the ramp";
  EXPECT_EQ(epochs[1].at("final_loss"), epochs[1].at("loss")) << "the last iteration has Bmax";
  EXPECT_EQ(epochs[1].at("final_accuracy"), epochs[1].at("accuracy"));
  ASSERT_TRUE(summary.final_evaluation);
  const EvaluationReport report = evaluate_checkpoint(run_folder("cpt"), {});
  ASSERT_TRUE(report.final);
  EXPECT_EQ(report.final->loss, summary.final_evaluation->loss);
  train(recipe_of("static:shared:8/8"), run_folder("static"), options_);
  EXPECT_FALSE(evaluate_checkpoint(run_folder("static"), {}).final);
  EXPECT_FALSE(lines_of(run_folder("static") / "metrics.jsonl").back().contains("final_loss"));
}

// Above 16 bits the fixed-point values are carried in float32, and the log names the arithmetic.
TEST_F(PaperPolicyRun, LongWordsRunInFloat32AndTheLogSaysSo) {
  const TrainSummary wide = train(recipe_of("static:shared:24/24"), run_folder("wide"), options_);
  for (const json& line : lines_of(run_folder("wide") / "precision.jsonl")) {
    EXPECT_EQ(line.at("arithmetic"), "float32") << line;
    const bool is_linear = line.at("layer").get<std::string>().starts_with("fc");
    EXPECT_EQ(line.at("bits"), is_linear ? 32 : 24) << line;
    EXPECT_EQ(line.contains("scale_log2"), !is_linear && line.at("tensor") != "w") << line;
  }
  EXPECT_EQ(wide.precision.float_layers, 1.0);

  train(recipe_of("cpt:8-32/8", {{"cycles", 1}}), run_folder("cpt"), options_);
  std::map<std::string, int> seen;
  for (const json& line : lines_of(run_folder("cpt") / "precision.jsonl")) {
    if (line.at("layer") != "conv2") continue;
    const auto tensor = line.at("tensor").get<std::string>();
    const auto arithmetic = line.at("arithmetic").get<std::string>();
    const int bits = line.at("bits");
    if (tensor == "x" || tensor == "w") {
      EXPECT_EQ(arithmetic == "float32", bits > 16) << line;
      EXPECT_EQ(arithmetic == "int8", bits == 8) << line;
    }
    ++seen[tensor == "dy_wtgrad" ? tensor + " " + arithmetic : tensor];
  }
  EXPECT_GT(seen["x"], 3);
  // WTGRAD: the bits of dY never change, what it runs on does.
  EXPECT_EQ(seen["dy_wtgrad int8"], 1);
  EXPECT_GE(seen["dy_wtgrad float32"], 1);
}

TEST_F(PaperPolicyRun, GradientsFollowAPolicyOfTheirOwn) {
  Recipe recipe = recipe_of("cpt:4-8/8", {{"cycles", 1}});
  recipe.precision.gradient_policy = "apt";
  recipe.precision.first_layer = "8/8/16";
  EXPECT_TRUE(train(recipe, run_folder("both"), options_).finished);
  std::map<std::string, std::string> reasons;
  for (const json& line : lines_of(run_folder("both") / "precision.jsonl")) {
    const auto key = line.at("layer").get<std::string>() + " " + line.at("tensor").get<std::string>();
    reasons.emplace(key, line.at("reason"));
    if (key == "conv1 dy_wtgrad") {
      EXPECT_EQ(line.at("bits"), 16);
    } else if (key.starts_with("fc")) {
      EXPECT_EQ(line.at("bits"), 32) << "the gradient policy rests here: " << line;
    }
  }
  EXPECT_TRUE(reasons.at("conv2 w").starts_with("cycle 1 of 1")) << reasons.at("conv2 w");
  EXPECT_TRUE(reasons.at("conv2 dy_bprop").starts_with("first measurement")) << reasons.at("conv2 dy_bprop");
  EXPECT_EQ(reasons.at("conv1 w"), "fixed by static");
}

TEST(RangeTest, LevelOfAWindow) {
  const RangeTestLevel level = summarise_window(4, std::vector{0.1, 0.2, 0.3, 0.5, 0.7});
  EXPECT_EQ(level.bits, 4);
  EXPECT_DOUBLE_EQ(level.first_half, 0.15);
  EXPECT_DOUBLE_EQ(level.last_half, 0.5);
  EXPECT_DOUBLE_EQ(level.gain(), 0.35);
  EXPECT_THROW(summarise_window(4, std::vector{0.1}), Error);
}

TEST_F(PaperPolicyRun, RangeTestGoesUpUntilTheNetworkLearns) {
  const Recipe recipe = recipe_of("cpt:3-5/6");
  const RangeTestResult first = range_test(recipe, {.start = 2, .window = 4, .threshold = -1.0, .stop = {}});
  ASSERT_EQ(first.levels.size(), 1U);
  EXPECT_EQ(first.minimum, 2);
  EXPECT_EQ(first.maximum, 5);
  EXPECT_EQ(first.gradient, 6);
  const RangeTestResult none = range_test(recipe, {.start = 3, .window = 4, .threshold = 1.0, .stop = {}});
  EXPECT_EQ(none.levels.size(), 3U) << "3, 4 and 5 bits";
  EXPECT_FALSE(none.minimum);
  RangeTestOptions stopped{.start = 2, .window = 4, .threshold = 1.0, .stop = {}};
  stopped.stop = [asked = 0]() mutable { return ++asked > 6; };
  const RangeTestResult part = range_test(recipe, stopped);
  EXPECT_TRUE(part.stopped);
  EXPECT_EQ(part.levels.size(), 1U);
  EXPECT_THROW(range_test(recipe_of("apt"), {}), Error);
  EXPECT_THROW(range_test(recipe, {.start = 6, .window = 4, .threshold = 0.0, .stop = {}}), Error);
}

}  // namespace
}  // namespace bitdial::train
