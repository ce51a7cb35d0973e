#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "bitdial/core/error.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/quantized_network.h"
#include "bitdial/train/trainer.h"
#include "bitdial/train/weights.h"

namespace bitdial::train {
namespace {

namespace fs = std::filesystem;

/// Policies with a parameter rule, trained on a few generated images.
class ParameterPolicyTest : public ::testing::Test {
 protected:
  ParameterPolicyTest()
      : folder_(fs::temp_directory_path() /
                fmt::format("bitdial-parameters-{}-{}", ::getpid(),
                            ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    options_.bar.stream = null_.get();
    options_.bar.terminal = false;
  }
  ~ParameterPolicyTest() override { fs::remove_all(folder_); }

  static Recipe recipe(const std::string& policy, const nlohmann::json& options,
                       const std::string& arithmetic = "simulated") {
    Recipe recipe;
    recipe.data.name = "shapes";
    recipe.data.train_images = 128;
    recipe.data.test_images = 32;
    recipe.data.batch_size = 16;  // 8 steps per epoch
    recipe.model.name = "lenet5";
    recipe.train.epochs = 2;
    recipe.train.threads = 1;
    recipe.train.log_every = 1;
    recipe.optimizer.learning_rate = 0.05;
    recipe.schedule.name = "constant";
    recipe.precision.policy = policy;
    recipe.precision.arithmetic = arithmetic;
    recipe.precision.options = options;
    return recipe;
  }

  static std::vector<nlohmann::json> lines_of(const fs::path& path) {
    std::vector<nlohmann::json> lines;
    std::ifstream stream(path);
    for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  /// Step, layer, tensor and bits of every decision.
  static std::vector<std::tuple<int64_t, std::string, std::string, int>> widths_of(const fs::path& run) {
    std::vector<std::tuple<int64_t, std::string, std::string, int>> widths;
    for (const auto& line : lines_of(run / "precision.jsonl")) {
      widths.emplace_back(line.at("step"), line.at("layer"), line.at("tensor"), line.at("bits"));
    }
    return widths;
  }

  static void expect_equal_checkpoints(const fs::path& a, const fs::path& b) {
    const Checkpoint left = read_checkpoint(find_checkpoint(a, false));
    const Checkpoint right = read_checkpoint(find_checkpoint(b, false));
    ASSERT_EQ(left.tensors.size(), right.tensors.size());
    for (size_t i = 0; i < left.tensors.size(); ++i) {
      EXPECT_EQ(left.tensors[i].name, right.tensors[i].name);
      EXPECT_EQ(left.tensors[i].data, right.tensors[i].data) << left.tensors[i].name;
    }
    EXPECT_EQ(left.session, right.session);
    EXPECT_EQ(left.policy_learning_rate, right.policy_learning_rate);
  }

  void expect_equal_widths(const std::string& policy, const nlohmann::json& options) {
    const TrainSummary simulated = train(recipe(policy, options), folder_ / "simulated", options_);
    const TrainSummary integer = train(recipe(policy, options, "integer"), folder_ / "integer", options_);
    const auto widths = widths_of(folder_ / "simulated");
    EXPECT_EQ(widths, widths_of(folder_ / "integer"));
    EXPECT_GT(std::ranges::count_if(widths, [](const auto& one) { return std::get<0>(one) > 0; }), 4);
    EXPECT_NEAR(simulated.train_loss, integer.train_loss, 0.05 * simulated.train_loss);
    EXPECT_LT(integer.train_loss, 3.0);
  }

  void expect_resumed_runs_to_be_equal(const Recipe& one) {
    train(one, folder_ / "whole", options_);
    for (const int64_t steps : {3, 8, 13}) {
      const fs::path run = folder_ / fmt::format("stopped{}", steps);
      TrainOptions stops = options_;
      stops.stop = [steps, asked = int64_t{0}]() mutable { return ++asked >= steps; };
      EXPECT_FALSE(train(one, run, stops).finished);
      EXPECT_TRUE(resume(run, options_).finished);
      expect_equal_checkpoints(folder_ / "whole", run);
      EXPECT_EQ(widths_of(folder_ / "whole"), widths_of(run));
    }
  }

  fs::path folder_;
  std::shared_ptr<std::FILE> null_{std::fopen("/dev/null", "w"), [](std::FILE* file) { std::fclose(file); }};
  TrainOptions options_;
};

// Levels change after the steps 3, 7 and 11; images are quantised one by one, pools and gradients, too.
const nlohmann::json kMuppet = {
    {"epoch_iterations", 2}, {"static_schedule", "1 3 5"}, {"quantise_operands", "on"}};
// A switch of every tensor each three or four updates.
const nlohmann::json kAdapt = {{"lb_lwr", 3}, {"lb_upr", 4}, {"buff", 4}, {"gamma", 1.0}};

TEST_F(ParameterPolicyTest, MuppetHasEqualWidthsInBothArithmetics) { expect_equal_widths("muppet", kMuppet); }

TEST_F(ParameterPolicyTest, AdaptHasEqualWidthsInBothArithmetics) {
  nlohmann::json options = kAdapt;
  options["wl_max"] = 16;
  expect_equal_widths("adapt", options);
}

TEST_F(ParameterPolicyTest, MuppetGoesOnAsIfItHadNotStopped) {
  Recipe one = recipe("muppet", {{"epoch_iterations", 1}, {"r", 2}, {"gamma", 1}, {"beta", 0.0}}, "integer");
  one.data.train_images = 128;
  expect_resumed_runs_to_be_equal(one);
}

TEST_F(ParameterPolicyTest, AdaptGoesOnAsIfItHadNotStopped) {
  Recipe one = recipe("adapt", kAdapt);
  one.train.micro_batches = 2;
  expect_resumed_runs_to_be_equal(one);
}

TEST_F(ParameterPolicyTest, CheckpointsHoldMastersAndTheNetworkIsSparse) {
  const TrainSummary summary = train(recipe("adapt", {{"lb_lwr", 50}}), folder_ / "run", options_);
  // <8,4> to the end: most of LeNet-5's first weights round to zero.
  ASSERT_TRUE(summary.zero_fraction);
  EXPECT_GT(*summary.zero_fraction, 0.05);
  const Checkpoint checkpoint = read_checkpoint(find_checkpoint(folder_ / "run", false));
  int64_t off_grid = 0;
  for (const StoredTensor& stored : checkpoint.tensors_under("model.").tensors) {
    const torch::Tensor steps = from_stored(stored).mul(16.0);
    off_grid += steps.ne(steps.round()).sum().item<int64_t>();
  }
  EXPECT_GT(off_grid, 1000);
  EXPECT_FALSE(checkpoint.tensors_under("policy.").tensors.empty());
}

class DeliveredNetworkTest : public ParameterPolicyTest,
                             public ::testing::WithParamInterface<std::pair<const char*, nlohmann::json>> {
 protected:
  /// The parameters are on the grids that the file names; answers how many of them were looked at.
  static size_t expect_on_grid(const QuantizedNetwork& network) {
    for (const QuantizedTensor& format : network.formats) {
      const StoredTensor* const stored = network.weights.find(format.name);
      EXPECT_NE(stored, nullptr) << format.name;
      const torch::Tensor values = from_stored(*stored).to(torch::kFloat64);
      EXPECT_TRUE(format.fraction_length) << format.name;
      const torch::Tensor codes = values * std::exp2(format.fraction_length.value_or(0));
      EXPECT_TRUE(codes.equal(codes.round())) << format.name;
      const double limit = std::exp2(format.word_length - 1);
      EXPECT_GE(codes.min().item<double>(), -limit) << format.name;
      EXPECT_LT(codes.max().item<double>(), limit) << format.name;
      EXPECT_EQ(values.eq(0.0).to(torch::kFloat64).mean().item<double>(), format.zeros) << format.name;
    }
    return network.formats.size();
  }
};

TEST_P(DeliveredNetworkTest, HoldsFixedPointValuesAndEvaluatesAsTheRunDid) {
  const auto& [policy, options] = GetParam();
  const TrainSummary summary = train(recipe(policy, options, "integer"), folder_ / "run", options_);
  ASSERT_TRUE(summary.quantized_network);
  const fs::path file = folder_ / "run" / "quantized.safetensors";
  EXPECT_EQ(*summary.quantized_network, file);

  const QuantizedNetwork network = read_quantized_network(file);
  EXPECT_EQ(expect_on_grid(network), 10U);  // weight and bias of five layers
  EXPECT_EQ(network.zeros, *summary.zero_fraction);
  EXPECT_EQ(network.steps, summary.steps);

  const EvaluationReport delivered = evaluate_checkpoint(file, {});
  EXPECT_EQ(delivered.quantized.loss, summary.evaluation->loss);
  EXPECT_EQ(delivered.quantized.accuracy, summary.evaluation->accuracy);
  // Other weights than the masters.
  EXPECT_NE(delivered.float32.loss, evaluate_checkpoint(folder_ / "run", {}).float32.loss);

  // It starts another run as any file of weights does.
  Recipe next = recipe("float32", {});
  next.model.init = file.string();
  next.train.epochs = 1;
  next.train.steps = 1;
  EXPECT_TRUE(train(next, folder_ / "next", options_).finished);
}

INSTANTIATE_TEST_SUITE_P(
    Policies, DeliveredNetworkTest,
    ::testing::Values(std::pair{"adapt", nlohmann::json{{"lb_lwr", 3}, {"lb_upr", 4}, {"buff", 4}}},
                      std::pair{"muppet",
                                nlohmann::json{{"epoch_iterations", 1}, {"static_schedule", "1 20 30 40"}}}),
    [](const auto& info) { return std::string(info.param.first); });

TEST_F(ParameterPolicyTest, DeliversAgainAfterAFailureAndWhenTheRunIsLonger) {
  Recipe one = recipe("adapt", kAdapt);
  one.train.epochs = 1;
  TrainOptions stops = options_;
  stops.stop = [asked = 0]() mutable { return ++asked >= 3; };
  EXPECT_FALSE(train(one, folder_ / "run", stops).quantized_network);
  const fs::path file = folder_ / "run" / "quantized.safetensors";
  EXPECT_FALSE(fs::exists(file));
  // A folder in its place cannot be replaced: the training is saved, the file follows.
  fs::create_directories(file / "full");
  EXPECT_THROW(resume(folder_ / "run", options_), Error);
  fs::remove_all(file);
  EXPECT_TRUE(resume(folder_ / "run", options_).finished);
  EXPECT_EQ(read_quantized_network(file).epochs, 1);

  EXPECT_TRUE(resume(folder_ / "run", options_, 2).finished);
  EXPECT_EQ(read_quantized_network(file).epochs, 2);
  EXPECT_EQ(evaluate_checkpoint(file, {}).quantized.loss,
            evaluate_checkpoint(folder_ / "run", {}).quantized.loss);
}

TEST_F(ParameterPolicyTest, OnlyPoliciesWithWorkingWeightsDeliver) {
  Recipe one = recipe("static:8/8/8", {}, "integer");
  one.train.epochs = 1;
  EXPECT_FALSE(train(one, folder_ / "run", options_).quantized_network);
  EXPECT_FALSE(fs::exists(folder_ / "run" / "quantized.safetensors"));
  EXPECT_THROW(read_quantized_network(find_checkpoint(folder_ / "run", false)), Error);
}

TEST_F(ParameterPolicyTest, AdaptWithIntegerGradientsRunsAllThreeGemmsOnIntegers) {
  // Beyond the paper: words of 16 bits at most, dY in the bits of APT.
  Recipe one = recipe("adapt", {{"lb_lwr", 3}, {"lb_upr", 4}, {"buff", 4}, {"wl_max", 16}}, "integer");
  one.precision.gradient_policy = "apt";
  const TrainSummary integer = train(one, folder_ / "integer", options_);
  one.precision.arithmetic = "simulated";
  train(one, folder_ / "simulated", options_);
  EXPECT_EQ(widths_of(folder_ / "integer"), widths_of(folder_ / "simulated"));

  std::map<std::string, std::string> last;  // "conv2 WTGRAD": where it ran at the end
  for (const auto& line : lines_of(folder_ / "integer" / "gemms.jsonl")) {
    const auto arithmetic = line.at("arithmetic").get<std::string>();
    const auto gemm = line.at("layer").get<std::string>() + " " + line.at("gemm").get<std::string>();
    EXPECT_TRUE(arithmetic.starts_with("int")) << gemm << " " << arithmetic;
    last[gemm] = arithmetic;
  }
  EXPECT_EQ(last.size(), 14U);  // three each of five layers, no BPROP of the first
  for (const char* gemm : {"FPROP", "BPROP", "WTGRAD"})
    EXPECT_TRUE(last.contains(fmt::format("conv2 {}", gemm)));
  const auto metrics = lines_of(folder_ / "integer" / "metrics.jsonl");
  EXPECT_FALSE(metrics.back().at("macs_percent").contains("float32"));
  // The widths moved.
  const auto widths = widths_of(folder_ / "integer");
  EXPECT_TRUE(std::ranges::any_of(widths, [](const auto& line) {
    return std::get<0>(line) > 0 && std::get<2>(line) == "w" && std::get<3>(line) > 8;
  }));
  EXPECT_LT(integer.train_loss, 3.0);
}

TEST_F(ParameterPolicyTest, MuppetEndsTheRunInTheMiddleOfAnEpoch) {
  Recipe one = recipe(
      "muppet",
      {{"epoch_iterations", 1}, {"static_schedule", "0 1 2 3"}, {"fp32_epochs_per_lr", 2}, {"min_lr", 0.01}});
  one.train.epochs = 5;
  const TrainSummary summary = train(one, folder_ / "run", options_);
  EXPECT_TRUE(summary.finished);
  EXPECT_EQ(summary.steps, 4 + 2 * 2);  // 0.05, then 0.005 <= min_lr
  const auto metrics = lines_of(folder_ / "run" / "metrics.jsonl");
  ASSERT_TRUE(summary.evaluation);
}

TEST_F(ParameterPolicyTest, AdamSharesTheHooks) {
  Recipe one = recipe("adapt", kAdapt);
  one.optimizer.name = "adam";
  one.optimizer.learning_rate = 1e-3;
  one.train.epochs = 1;
  EXPECT_TRUE(train(one, folder_ / "run", options_).finished);
}

TEST_F(ParameterPolicyTest, NormsAndResidualsRunQuantised) {
  for (const auto& [policy, options] :
       {std::pair<std::string, nlohmann::json>{"adapt",
                                               {{"inplace_inputs", true}, {"lb_lwr", 2}, {"lb_upr", 2}}},
        {"muppet", {{"epoch_iterations", 1}, {"static_schedule", "0"}}}}) {
    Recipe one = recipe(policy, options, "integer");
    one.model.name = "resnet20-cifar";
    one.data.train_images = 8;
    one.data.batch_size = 4;
    one.data.test_images = 8;
    one.train.epochs = 2;
    EXPECT_TRUE(train(one, folder_ / policy, options_).finished);
    const auto lines = lines_of(folder_ / policy / "precision.jsonl");
    const auto has = [&](const std::string& tensor) {
      return std::ranges::any_of(lines, [&](const auto& line) { return line.at("tensor") == tensor; });
    };
    EXPECT_TRUE(has("y"));
    EXPECT_EQ(has("dx"), policy == "muppet");
  }
}

}  // namespace
}  // namespace bitdial::train
