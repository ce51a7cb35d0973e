#include "bitdial/train/trainer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/cost_estimate.h"
#include "bitdial/train/replay.h"

namespace bitdial::train {
namespace {

namespace fs = std::filesystem;

/// LeNet-5 on a few generated images: a second a run.
Recipe tiny_recipe() {
  Recipe recipe;
  recipe.data.name = "shapes";
  recipe.data.train_images = 200;
  recipe.data.test_images = 50;
  recipe.data.batch_size = 32;  // 7 steps per epoch, the last of 8 images
  recipe.model.name = "lenet5";
  recipe.train.epochs = 2;
  recipe.train.threads = 1;
  recipe.train.log_every = 2;
  recipe.optimizer.learning_rate = 0.05;
  recipe.precision.policy = "float32";
  return recipe;
}

std::vector<nlohmann::json> read_lines(const fs::path& path) {
  std::vector<nlohmann::json> lines;
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest()
      : folder_(fs::temp_directory_path() /
                fmt::format("bitdial-train-{}-{}", ::getpid(),
                            ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    options_.bar.stream = null_.get();
    options_.bar.terminal = false;
  }
  ~TrainerTest() override { fs::remove_all(folder_); }

  fs::path run(const std::string& name) const { return folder_ / name; }

  /// Options that stop a run after so many optimiser steps.
  TrainOptions stop_after(int64_t steps) const {
    TrainOptions options = options_;
    options.stop = [steps, asked = int64_t{0}]() mutable { return ++asked >= steps; };
    return options;
  }

  /// Weights, optimiser and policy state, counters and metrics of two finished runs must agree bit for bit.
  static void expect_same_runs(const fs::path& a, const fs::path& b) {
    const Checkpoint left = read_checkpoint(find_checkpoint(a, false));
    const Checkpoint right = read_checkpoint(find_checkpoint(b, false));
    ASSERT_EQ(left.tensors.size(), right.tensors.size());
    for (size_t i = 0; i < left.tensors.size(); ++i) {
      EXPECT_EQ(left.tensors[i].name, right.tensors[i].name);
      EXPECT_EQ(left.tensors[i].data, right.tensors[i].data) << left.tensors[i].name;
    }
    EXPECT_EQ(left.session, right.session);
    EXPECT_EQ(left.schedule, right.schedule);
    EXPECT_EQ(left.cost, right.cost);
    EXPECT_EQ(left.progress.step, right.progress.step);
    EXPECT_EQ(left.progress.best_accuracy, right.progress.best_accuracy);
    auto metrics = read_lines(a / "metrics.jsonl");
    auto other_metrics = read_lines(b / "metrics.jsonl");
    EXPECT_GT(metrics.size(), 2U);
    for (auto* lines : {&metrics, &other_metrics}) {
      for (auto& line : *lines) line.erase("images_per_s");
    }
    EXPECT_EQ(metrics, other_metrics);
    EXPECT_EQ(read_lines(a / "precision.jsonl"), read_lines(b / "precision.jsonl"));
    EXPECT_EQ(read_lines(a / "gemms.jsonl"), read_lines(b / "gemms.jsonl"));
  }

  void expect_resume_is_exact(const Recipe& recipe, std::initializer_list<int64_t> stops) {
    ASSERT_TRUE(train(recipe, run("whole"), options_).finished);
    TrainSummary summary;
    bool first = true;
    for (const int64_t steps : stops) {
      summary =
          first ? train(recipe, run("parts"), stop_after(steps)) : resume(run("parts"), stop_after(steps));
      ASSERT_FALSE(summary.finished);
      first = false;
    }
    ASSERT_TRUE(resume(run("parts"), options_).finished);
    expect_same_runs(run("whole"), run("parts"));
  }

  // What other work on the cores disturbed would be measured again by the next run.
  static void trust_times(const fs::path& folder) {
    int files = 0;
    for (const auto& entry : fs::directory_iterator(folder)) {
      std::ifstream in(entry.path());
      nlohmann::json table = nlohmann::json::parse(in);
      for (auto& time : table.at("times")) time["certain"] = true;
      std::ofstream(entry.path()) << table;
      ++files;
    }
    EXPECT_EQ(files, 1);
  }

  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Closer> null_{std::fopen("/dev/null", "w")};
  fs::path folder_;
  TrainOptions options_;
};

Recipe gated_recipe(const std::string& policy) {
  Recipe recipe = tiny_recipe();
  recipe.model.name = "resnet20-cifar";
  recipe.data.train_images = 40;
  recipe.data.test_images = 16;
  recipe.data.batch_size = 16;
  recipe.precision.policy = policy;
  recipe.precision.options = {{"log_every", 2}};
  return recipe;
}

// The gate's parameters, its optimiser state and its policy's numbers all come back.
TEST_F(TrainerTest, GatedRunResumesExactly) { expect_resume_is_exact(gated_recipe("fractrain"), {2}); }

TEST_F(TrainerTest, GatedRunLogsItsCost) {
  ASSERT_TRUE(train(gated_recipe("dfq"), run("dfq"), options_).finished);
  int lines = 0;
  for (const auto& line : read_lines(run("dfq") / "precision.jsonl")) {
    if (!line.at("evidence").contains("cp")) continue;
    ++lines;
    EXPECT_GE(line.at("evidence").at("cp"), 1.757);
    EXPECT_LE(line.at("evidence").at("cp"), 4.689);
    EXPECT_EQ(line.at("evidence").at("shares").size(), 5U);
  }
  EXPECT_EQ(lines, 3) << "6 steps, every second one";
}

TEST_F(TrainerTest, LdpRunResumesExactly) {
  Recipe recipe = tiny_recipe();
  recipe.precision.policy = "ldp";
  recipe.precision.options = {{"lr_beta", 2.0}, {"T", 0.4}};
  expect_resume_is_exact(recipe, {3, 5});
}

TEST_F(TrainerTest, LearnsAndLeavesARunDirectory) {
  Recipe recipe = tiny_recipe();
  recipe.train.epochs = 6;
  const TrainSummary summary = train(recipe, run("a"), options_);
  EXPECT_TRUE(summary.finished);
  EXPECT_EQ(summary.steps, 42);
  ASSERT_TRUE(summary.evaluation);
  EXPECT_EQ(summary.evaluation->images, 50);

  const auto lines = read_lines(run("a") / "metrics.jsonl");
  EXPECT_EQ(
      std::count_if(lines.begin(), lines.end(), [](const auto& line) { return line.at("kind") == "epoch"; }),
      6);
  EXPECT_EQ(
      std::count_if(lines.begin(), lines.end(), [](const auto& line) { return line.at("kind") == "step"; }),
      21);
  EXPECT_LT(summary.train_loss, lines.front().at("loss").get<double>());
  EXPECT_EQ(parse_recipe(read_checkpoint(find_checkpoint(run("a"), true)).network.recipe), recipe);
  EXPECT_EQ(list_checkpoints(run("a") / "checkpoints").size(), 2U);  // train.keep_checkpoints
}

TEST_F(TrainerTest, EveryLogLineHasTheAnalyticCostOfAllSteps) {
  Recipe recipe = tiny_recipe();
  set_recipe_value(recipe, "precision.policy=static:8/8/16");
  ASSERT_FALSE(train(recipe, run("a"), stop_after(5)).finished);
  const TrainSummary summary = resume(run("a"), options_);
  CostRequest request;
  request.model = "lenet5";
  request.options.in_channels = 3;
  request.policy = "static:8/8/16";
  request.batch = 32;
  for (const auto& line : read_lines(run("a") / "metrics.jsonl")) {
    request.iterations = line.at("step").get<int64_t>() + 1;
    const cost::CostTotals expected = estimate_cost(request).totals;
    EXPECT_NEAR(line.at("gbitops").get<double>(), expected.gbitops, 1e-9 * expected.gbitops);
    EXPECT_NEAR(line.at("gbitops_actual").get<double>(), expected.gbitops_actual,
                1e-9 * expected.gbitops_actual);
    EXPECT_NEAR(line.at("ratio_fw8bw8").get<double>(), 320.0 / 192.0, 1e-9);
    EXPECT_NEAR(line.at("ratio_float32").get<double>(), 320.0 / 3072.0, 1e-9);
    EXPECT_EQ(line.at("bits_dy_by_macs").get<double>(), 16.0);
    EXPECT_EQ(line.at("size_ratio").get<double>(), 0.25);
  }
  EXPECT_EQ(summary.cost.steps, 14);
  const CostEstimate logged = cost_of_run(run("a"), CostSource::kDecisions);
  EXPECT_EQ(logged.totals.steps, 14);
  EXPECT_NEAR(logged.totals.gbitops, summary.cost.gbitops, 1e-9 * summary.cost.gbitops);
}

TEST_F(TrainerTest, ACostReadFromTheLogsOfWideningBitsIsTheOneCounted) {
  Recipe recipe = tiny_recipe();
  set_recipe_value(recipe, "precision.policy=apt");
  set_recipe_value(recipe, "precision.options.T=0.0005");  // some are widened within a few steps
  const cost::CostTotals counted = train(recipe, run("a"), options_).cost;
  const cost::CostTotals logged = cost_of_run(run("a"), CostSource::kDecisions).totals;
  EXPECT_EQ(cost_of_run(run("a")).totals.gbitops, counted.gbitops);
  EXPECT_NEAR(logged.gbitops, counted.gbitops, 1e-9 * counted.gbitops);
  EXPECT_NEAR(logged.mean_bits.dy, counted.mean_bits.dy, 1e-9);
  EXPECT_GT(counted.mean_bits.dy, 8.0);
  recipe = tiny_recipe();
  set_recipe_value(recipe, "precision.policy=bf16");
  const cost::CostTotals half = train(recipe, run("b"), options_).cost;
  EXPECT_NEAR(cost_of_run(run("b"), CostSource::kDecisions).totals.ratio_float32, 0.25, 1e-12);
  EXPECT_NEAR(half.ratio_float32, 0.25, 1e-12);
}

TEST_F(TrainerTest, TheLogNamesTheArithmeticOfEveryGemm) {
  Recipe recipe = tiny_recipe();
  recipe.train.epochs = 1;
  set_recipe_value(recipe, "precision.policy=static:8/8/16");
  train(recipe, run("a"), options_);
  const auto gemms = read_lines(run("a") / "gemms.jsonl");
  ASSERT_EQ(gemms.size(), 14U);  // five layers, the first without BPROP
  double int8 = 0.0;
  double all = 0.0;
  for (const auto& line : gemms) {
    EXPECT_EQ(line.at("step"), 0);
    const bool is_forward = line.at("gemm") == "FPROP";
    EXPECT_EQ(line.at("arithmetic"), is_forward ? "int8" : "int8xint16") << line;
    all += line.at("macs").get<double>();
    if (is_forward) int8 += line.at("macs").get<double>();
  }
  for (const auto& line : read_lines(run("a") / "metrics.jsonl")) {
    ASSERT_EQ(line.at("macs_percent").size(), 2U);
    EXPECT_NEAR(line.at("macs_percent").at("int8").get<double>(), 100.0 * int8 / all, 1e-9);
    EXPECT_NEAR(line.at("macs_percent").at("int8xint16").get<double>(), 100.0 * (1.0 - int8 / all), 1e-9);
  }
  set_recipe_value(recipe, "precision.arithmetic=simulated");
  train(recipe, run("b"), options_);
  for (const auto& line : read_lines(run("b") / "gemms.jsonl")) EXPECT_EQ(line.at("arithmetic"), "simulated");
  set_recipe_value(recipe, "precision.policy=float32");
  train(recipe, run("c"), options_);
  EXPECT_EQ(read_lines(run("c") / "gemms.jsonl").size(), 14U);
  EXPECT_EQ(read_lines(run("c") / "metrics.jsonl").back().at("macs_percent").at("float32"), 100.0);
}

TEST_F(TrainerTest, SameSeedSameBits) {
  train(tiny_recipe(), run("a"), options_);
  train(tiny_recipe(), run("b"), options_);
  expect_same_runs(run("a"), run("b"));
  Recipe other = tiny_recipe();
  other.train.seed = 2;
  train(other, run("c"), options_);
  EXPECT_NE(read_checkpoint(find_checkpoint(run("a"), false)).tensors[0].data,
            read_checkpoint(find_checkpoint(run("c"), false)).tensors[0].data);
}

TEST_F(TrainerTest, ResumesBitIdenticallyWithinAnEpoch) { expect_resume_is_exact(tiny_recipe(), {3, 2}); }

TEST_F(TrainerTest, ResumesBitIdenticallyAtTheEndOfAnEpoch) { expect_resume_is_exact(tiny_recipe(), {7}); }

TEST_F(TrainerTest, ResumesBitIdenticallyWithAdaptivePrecision) {
  Recipe recipe = tiny_recipe();
  recipe.precision.policy = "apt";
  expect_resume_is_exact(recipe, {2, 4});
}

TEST_F(TrainerTest, ResumesBitIdenticallyWithStoredRangesAccumulationAndAdam) {
  Recipe recipe = tiny_recipe();
  recipe.precision.policy = "static";
  recipe.train.micro_batches = 3;
  recipe.train.clip_norm = 1.0;
  recipe.train.label_smoothing = 0.1;
  recipe.optimizer.name = "adamw";
  recipe.optimizer.learning_rate = 0.002;
  recipe.schedule.name = "plateau";
  recipe.data.fold = "2/5";
  expect_resume_is_exact(recipe, {5});
}

TEST_F(TrainerTest, ResumesBitIdenticallyWithDropout) {
  Recipe recipe = tiny_recipe();
  recipe.model.name = "alexnet-imagenet";  // at 64 pixels; dropout draws from LibTorch's generator
  recipe.data.image_size = 64;
  recipe.data.train_images = 8;
  recipe.data.test_images = 2;
  recipe.data.batch_size = 4;
  recipe.train.epochs = 1;
  recipe.train.log_every = 1;
  recipe.optimizer.learning_rate = 0.001;
  recipe.optimizer.momentum = 0.0;
  expect_resume_is_exact(recipe, {1});
}

TEST_F(TrainerTest, LosesOnlyWhatFollowsTheLastCheckpoint) {
  Recipe recipe = tiny_recipe();
  recipe.train.checkpoint_steps = 4;
  train(recipe, run("whole"), options_);
  // A crash: lines were written after the last checkpoint, and the process is gone.
  TrainOptions crash = options_;
  crash.stop = [asked = 0]() mutable -> bool {
    if (++asked == 6) throw std::runtime_error("power cut");
    return false;
  };
  EXPECT_THROW(train(recipe, run("parts"), crash), std::runtime_error);
  EXPECT_EQ(read_checkpoint(find_checkpoint(run("parts"), false)).progress.step, 4);
  EXPECT_TRUE(resume(run("parts"), options_).finished);
  expect_same_runs(run("whole"), run("parts"));
}

/// Normalised layers, a few seconds a run.
Recipe small_resnet() {
  Recipe recipe = tiny_recipe();
  recipe.model.name = "resnet20-cifar";
  recipe.data.train_images = 256;
  recipe.data.test_images = 32;
  recipe.data.image_size = 16;
  recipe.train.epochs = 3;
  return recipe;
}

double mean_bits(const fs::path& run, const char* key) {
  return read_lines(run / "metrics.jsonl").back().at(key).get<double>();
}

TEST_F(TrainerTest, LearnsInBFloat16) {
  Recipe recipe = small_resnet();
  recipe.precision.policy = "bf16";
  const TrainSummary summary = train(recipe, run("bf16"), options_);
  const auto lines = read_lines(run("bf16") / "metrics.jsonl");
  EXPECT_LT(summary.train_loss, lines.front().at("loss").get<double>() - 0.1);
  EXPECT_EQ(mean_bits(run("bf16"), "bits_w"), 16.0);
  recipe.precision.policy = "float32";
  train(recipe, run("float32"), options_);
  const double first = read_lines(run("float32") / "metrics.jsonl").front().at("loss").get<double>();
  EXPECT_NE(first, lines.front().at("loss").get<double>()) << "bfloat16 rounds";
  EXPECT_NEAR(first, lines.front().at("loss").get<double>(), 0.05);
  const EvaluationReport report = evaluate_checkpoint(run("bf16"), {});
  EXPECT_EQ(report.quantized.loss, summary.evaluation->loss);
  EXPECT_NE(report.float32.loss, report.quantized.loss);
}

TEST_F(TrainerTest, LearnsWithSbm) {
  Recipe recipe = small_resnet();
  recipe.precision.policy = "sbm";
  recipe.model.zero_last_gamma = true;
  const TrainSummary summary = train(recipe, run("sbm"), options_);
  const auto lines = read_lines(run("sbm") / "metrics.jsonl");
  EXPECT_LT(summary.train_loss, lines.front().at("loss").get<double>() - 0.1);
  EXPECT_EQ(mean_bits(run("sbm"), "bits_w"), 8.0);
  EXPECT_DOUBLE_EQ(mean_bits(run("sbm"), "bits_dy"), (21 * 8 + 22 * 32) / 43.0)
      << "8 bits for BPROP (of all but the first layer), float32 for WTGRAD";
  // Range BN quantises its input with a running range in evaluation; float32 beside it does not.
  const Checkpoint checkpoint = read_checkpoint(find_checkpoint(run("sbm"), false));
  const auto has_range = [](const StoredTensor& tensor) {
    return tensor.name.ends_with("bn1.running_range");
  };
  EXPECT_TRUE(std::any_of(checkpoint.tensors.begin(), checkpoint.tensors.end(), has_range));
  const EvaluationReport report = evaluate_checkpoint(run("sbm"), {});
  EXPECT_EQ(report.quantized.loss, summary.evaluation->loss);
  EXPECT_NE(report.float32.loss, report.quantized.loss);

  recipe.precision.policy = "float32";
  recipe.model.normalization = "range";
  recipe.model.range_norm_bits = 0;
  train(recipe, run("range"), options_);
  const EvaluationReport plain = evaluate_checkpoint(run("range"), {});
  EXPECT_EQ(plain.float32.loss, plain.quantized.loss);
}

// Times come from this machine, so any choice is right; it must train, be resumed and be evaluated exactly.
TEST_F(TrainerTest, LearnsWithTheFastestArithmetic) {
  ::setenv("XDG_CACHE_HOME", (folder_ / "cache").c_str(), 1);
  Recipe recipe = tiny_recipe();
  recipe.precision.policy = "auto";
  recipe.precision.options = {{"quantify_rate", 0.0}};
  std::vector<int64_t> measured;
  options_.measuring = [&](int64_t done, int64_t) { measured.push_back(done); };
  train(recipe, run("measuring"), options_);
  // Five layers, of the first FPROP and WTGRAD alone, in three arithmetics; then passes over their operands.
  EXPECT_GT(measured.size(), 3U * (5 * 3 - 1) + 1);
  trust_times(folder_ / "cache/bitdial");
  measured.clear();
  expect_resume_is_exact(recipe, {3, 2});
  EXPECT_TRUE(measured.empty());
  const auto lines = read_lines(run("whole") / "precision.jsonl");
  EXPECT_TRUE(lines.front().at("evidence").contains("gemms"));
  const ReplayReport replayed = replay_run(run("whole"));
  EXPECT_EQ(replayed.replayed, std::ssize(lines));
  EXPECT_TRUE(replayed.differences.empty()) << "of the choices by time, too";
  const EvaluationReport report = evaluate_checkpoint(run("whole"), {});
  EXPECT_EQ(report.quantized.loss, evaluate_checkpoint(run("parts"), {}).quantized.loss);
}

TEST_F(TrainerTest, AFinishedRunGoesOnForMoreEpochs) {
  Recipe recipe = tiny_recipe();
  recipe.precision.policy = "static";
  recipe.schedule.name = "step";  // whose rates do not depend on the length of the run
  recipe.schedule.milestones = {1.5};
  recipe.train.epochs = 3;
  train(recipe, run("whole"), options_);
  recipe.train.epochs = 1;
  train(recipe, run("parts"), options_);
  EXPECT_EQ(resume(run("parts"), options_).steps, 7) << "finished";
  EXPECT_FALSE(resume(run("parts"), stop_after(3), 3).finished);
  EXPECT_EQ(load_recipe(run("parts") / "recipe.toml").train.epochs, 3);
  const TrainSummary summary = resume(run("parts"), options_);
  EXPECT_TRUE(summary.finished);
  EXPECT_EQ(summary.steps, 21);
  expect_same_runs(run("whole"), run("parts"));
}

// The cosine of the longer run, from the next step on.
TEST_F(TrainerTest, MoreEpochsStretchTheSchedule) {
  Recipe recipe = tiny_recipe();
  recipe.data.drop_last = true;  // 6 steps per epoch
  recipe.train.log_every = 1;
  train(recipe, run("a"), options_);
  resume(run("a"), options_, 4);
  const auto lines = read_lines(run("a") / "metrics.jsonl");
  const auto rate = [&](int64_t step) {
    for (const auto& line : lines) {
      if (line.at("kind") == "step" && line.at("step") == step) return line.at("lr").get<double>();
    }
    return -1.0;
  };
  EXPECT_NEAR(rate(11), 0.05 * 0.5 * (1 + std::cos(M_PI * 11 / 12)), 1e-12);
  EXPECT_NEAR(rate(12), 0.05 * 0.5 * (1 + std::cos(M_PI * 12 / 24)), 1e-12);
  EXPECT_NEAR(rate(23), 0.05 * 0.5 * (1 + std::cos(M_PI * 23 / 24)), 1e-12);
}

TEST_F(TrainerTest, StepsEndARunWithinAnEpoch) {
  Recipe recipe = tiny_recipe();
  recipe.train.epochs = 3;
  recipe.train.steps = 10;
  recipe.schedule.per = "step";
  const TrainSummary summary = train(recipe, run("a"), options_);
  EXPECT_TRUE(summary.finished);
  EXPECT_EQ(summary.steps, 10);
  EXPECT_EQ(summary.epochs, 2) << "the second of three steps only";
  ASSERT_TRUE(summary.evaluation);
  // The cosine ends with the steps: the rate of the last one is that of step 9 of 10.
  const auto last = read_lines(run("a") / "metrics.jsonl").back();
  EXPECT_NEAR(last.at("lr").get<double>(), 0.05 * 0.5 * (1 + std::cos(M_PI * 9 / 10)), 1e-9);
  EXPECT_THROW(resume(run("a"), options_, 5), Error) << "epochs do not add to the steps";
  expect_resume_is_exact(recipe, {12});  // asked after each step and evaluated batch: after the last step
}

TEST_F(TrainerTest, TheWeightDecayEndsWithItsEpochs) {
  Recipe recipe = tiny_recipe();
  recipe.optimizer.weight_decay = 0.5;
  const auto loss_after = [&](int64_t decay_epochs, const char* name) {
    recipe.optimizer.decay_epochs = decay_epochs;
    train(recipe, run(name), options_);
    std::vector<double> losses;
    for (const auto& line : read_lines(run(name) / "metrics.jsonl")) {
      if (line.at("kind") == "epoch") losses.push_back(line.at("loss").get<double>());
    }
    return losses;
  };
  const auto always = loss_after(0, "always"), ended = loss_after(1, "ended");
  EXPECT_EQ(always.at(0), ended.at(0));
  EXPECT_NE(always.at(1), ended.at(1));
  EXPECT_EQ(loss_after(2, "late"), always) << "the run ends before";
  recipe.optimizer.decay_epochs = 1;
  expect_resume_is_exact(recipe, {9});
}

TEST_F(TrainerTest, ReportsAndWatchesTheImagesHeldOut) {
  Recipe recipe = tiny_recipe();
  recipe.data.validation = 0.2;
  recipe.schedule.name = "plateau";
  const TrainSummary summary = train(recipe, run("a"), options_);
  EXPECT_EQ(summary.steps, 10) << "160 images in batches of 32, two epochs";
  ASSERT_TRUE(summary.validation && summary.evaluation);
  EXPECT_EQ(summary.validation->images, 40);
  EXPECT_EQ(summary.evaluation->images, 50);
  const auto last = read_lines(run("a") / "metrics.jsonl").back();
  EXPECT_EQ(last.at("validation_loss"), summary.validation->loss);
  EXPECT_EQ(last.at("validation_accuracy"), summary.validation->accuracy);
  EXPECT_EQ(last.at("loss"), summary.evaluation->loss);
  double best = std::numeric_limits<double>::infinity();
  for (const auto& line : read_lines(run("a") / "metrics.jsonl")) {
    EXPECT_EQ(line.contains("validation_loss"), line.at("kind") == "epoch");
    if (line.contains("validation_loss")) best = std::min(best, line.at("validation_loss").get<double>());
  }
  EXPECT_EQ(read_checkpoint(find_checkpoint(run("a"), false)).schedule.at("plateau").at("best"), best)
      << "the plateau schedule watches them, not the test images";
}

TEST_F(TrainerTest, FewerEpochsThanTrainedAreRefused) {
  train(tiny_recipe(), run("a"), options_);
  try {
    resume(run("a"), options_, 2);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("has trained 2 epochs"), std::string::npos) << error.what();
  }
  EXPECT_EQ(load_recipe(run("a") / "recipe.toml").train.epochs, 2);
}

TEST_F(TrainerTest, AccumulationEqualsTheWholeBatch) {
  Recipe recipe = tiny_recipe();
  recipe.train.epochs = 1;
  recipe.data.test_images = 10;
  train(recipe, run("whole"), options_);
  recipe.train.micro_batches = 5;  // 32 = 6 + 6 + 7 + 6 + 7
  train(recipe, run("parts"), options_);
  const auto whole = read_lines(run("whole") / "metrics.jsonl");
  const auto parts = read_lines(run("parts") / "metrics.jsonl");
  ASSERT_EQ(whole.size(), parts.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(whole[i].at("loss").get<double>(), parts[i].at("loss").get<double>(), 1e-4) << i;
  }
}

TEST_F(TrainerTest, EvaluatesInTheStoredPrecisionWithFloat32Beside) {
  Recipe recipe = tiny_recipe();
  recipe.precision.policy = "static:4/4/8";
  const TrainSummary summary = train(recipe, run("a"), options_);
  const EvaluationReport report = evaluate_checkpoint(run("a"), {});
  EXPECT_EQ(report.quantized.accuracy, summary.evaluation->accuracy);
  EXPECT_EQ(report.quantized.loss, summary.evaluation->loss) << "scales of the checkpoint, not of the batch";
  EXPECT_NE(report.float32.loss, report.quantized.loss);
  EXPECT_EQ(report.float32.images, 50);
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(TrainerTest, NamesLayerAndStepWhenTheLossIsNotFinite) {
  for (const char* policy : {"float32", "static"}) {
    Recipe recipe = tiny_recipe();
    recipe.model.name = "alexnet-cifar";  // no saturating activations
    recipe.data.train_images = 64;
    recipe.optimizer.learning_rate = 1e18;
    recipe.precision.policy = policy;
    recipe.train.checkpoint_steps = 1;
    const std::string error = error_of([&] { train(recipe, run(policy), options_); });
    EXPECT_TRUE(error.starts_with("[train] step ")) << error;
    EXPECT_NE(error.find("not finite"), std::string::npos) << error;
    EXPECT_TRUE(error.find("features.") != std::string::npos || error.find("classifier") != std::string::npos)
        << error;
    EXPECT_GE(read_checkpoint(find_checkpoint(run(policy), false)).progress.step, 1)
        << "the last one is kept";
  }
}

TEST_F(TrainerTest, StartsFromGivenWeights) {
  Recipe recipe = tiny_recipe();
  train(recipe, run("a"), options_);
  const TensorFile weights = read_checkpoint(find_checkpoint(run("a"), false)).tensors_under("model.");
  for (const char* name : {"w.pt", "w.safetensors"}) {
    write_weights(folder_ / name, weights);
    Recipe from = recipe;
    from.model.init = folder_ / name;
    from.optimizer.learning_rate = 1e-12;
    const TrainSummary summary = train(from, run(std::string("from-") + name), options_);
    EXPECT_NEAR(summary.evaluation->loss, evaluate_checkpoint(run("a"), {}).float32.loss, 1e-5) << name;
  }
}

TEST_F(TrainerTest, NamesTheTensorThatDoesNotFit) {
  Recipe recipe = tiny_recipe();
  train(recipe, run("a"), options_);
  const TensorFile weights = read_checkpoint(find_checkpoint(run("a"), false)).tensors_under("model.");
  const fs::path file = folder_ / "w.safetensors";
  recipe.model.init = file;

  TensorFile wrong = weights;
  for (StoredTensor& tensor : wrong.tensors) {
    if (tensor.name == "fc2.bias") {
      tensor.shape = {5};
      tensor.data.resize(5 * sizeof(float));
    }
  }
  write_weights(file, wrong);
  std::string error = error_of([&] { train(recipe, run("b"), options_); });
  EXPECT_NE(error.find("\"fc2.bias\" has shape [5]"), std::string::npos) << error;
  EXPECT_NE(error.find("expects [10]"), std::string::npos) << error;

  wrong = weights;
  wrong.tensors.front().name = "conv1.weights";
  write_weights(file, wrong);
  error = error_of([&] { train(recipe, run("c"), options_); });
  EXPECT_NE(error.find("conv1.weights"), std::string::npos) << error;
  EXPECT_NE(error.find("did you mean \"conv1.weight\""), std::string::npos) << error;

  wrong = weights;
  wrong.tensors.pop_back();
  write_weights(file, wrong);
  error = error_of([&] { train(recipe, run("d"), options_); });
  EXPECT_NE(error.find("lacks tensor \"fc2."), std::string::npos) << error;
}

TEST_F(TrainerTest, LeavesNoFolderWhenItCannotStart) {
  Recipe recipe = tiny_recipe();
  recipe.data.name = "cifar10";
  recipe.data.directory = folder_ / "nothing";
  EXPECT_THROW(train(recipe, run("a"), options_), Error);
  EXPECT_FALSE(fs::exists(run("a")));
  recipe = tiny_recipe();
  recipe.model.init = folder_ / "nothing.pt";
  fs::create_directories(run("b"));
  EXPECT_THROW(train(recipe, run("b"), options_), Error);
  EXPECT_TRUE(fs::exists(run("b"))) << "it was there before";
  EXPECT_TRUE(train(tiny_recipe(), run("b"), options_).finished);
}

TEST_F(TrainerTest, NeverWritesOverARun) {
  train(tiny_recipe(), run("a"), options_);
  EXPECT_THROW(train(tiny_recipe(), run("a"), options_), Error);
  EXPECT_THROW(resume(run("nothing"), options_), Error);
  EXPECT_TRUE(resume(run("a"), options_).finished) << "a finished run stays as it is";
}

}  // namespace
}  // namespace bitdial::train
