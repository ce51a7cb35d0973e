#include "bitdial/train/run_report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/train/run_average.h"
#include "bitdial/train/trainer.h"

namespace bitdial::train {
namespace {

namespace fs = std::filesystem;

TEST(RunReport, SaysFromTheDirectoryAloneWhatARunCameTo) {
  const fs::path run = fs::temp_directory_path() / fmt::format("bitdial-report-{}", ::getpid());
  fs::remove_all(run);
  Recipe recipe;
  recipe.data.name = "shapes";
  recipe.data.train_images = 200;
  recipe.data.test_images = 20;
  recipe.data.batch_size = 32;
  recipe.model.name = "lenet5";
  recipe.train.epochs = 2;
  recipe.train.threads = 1;
  set_recipe_value(recipe, "precision.policy=cpt:3-8/8");
  set_recipe_value(recipe, "precision.options.cycles=2");
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> null(std::fopen("/dev/null", "w"), std::fclose);
  TrainOptions options;
  options.bar.stream = null.get();
  options.bar.terminal = false;
  const TrainSummary summary = train(recipe, run, options);
  const RunReport report = report_run(run);
  fs::remove_all(run);

  CostRequest request;
  request.model = "lenet5";
  request.options.in_channels = 3;
  request.policy = "cpt:3-8/8";
  request.iterations = 14;
  request.batch = 32;
  request.cycles = 2;
  const CostEstimate expected = estimate_cost(request);
  EXPECT_NEAR(report.cost.totals.ratio_fw8bw8, expected.totals.ratio_fw8bw8, 1e-12);
  EXPECT_NEAR(report.cost.totals.mean_bits_by_macs.w, expected.totals.mean_bits_by_macs.w, 1e-12);
  EXPECT_EQ(report.steps, 14);
  EXPECT_TRUE(report.finished);
  EXPECT_DOUBLE_EQ(*report.best_accuracy, summary.best_accuracy);
  EXPECT_DOUBLE_EQ(*report.last_accuracy, summary.evaluation->accuracy);
  EXPECT_DOUBLE_EQ(*report.last_final_accuracy, summary.final_evaluation->accuracy);
  EXPECT_GT(report.images_per_s.value_or(0.0), 0.0);

  double percent = 0.0;
  for (const auto& [name, share] : report.macs_percent) percent += share;
  EXPECT_NEAR(percent, 100.0, 1e-9);
  ASSERT_EQ(report.layers.size(), 5U);
  const auto gemm = [&](size_t layer, Gemm which) {
    return report.layers[layer].arithmetic[static_cast<size_t>(which)];
  };
  EXPECT_EQ(gemm(0, Gemm::kFprop), "int8");
  EXPECT_EQ(gemm(0, Gemm::kBprop), "");
  EXPECT_EQ(gemm(1, Gemm::kBprop), "int8");
  EXPECT_EQ(gemm(4, Gemm::kFprop), "float32");  // linear layers stay in float32 there

  const auto json = to_json(report);
  EXPECT_EQ(json.at("layers").at(4).at("arithmetic").at("WTGRAD"), "float32");
  EXPECT_TRUE(json.at("measured").at("images_per_s").is_number());
  EXPECT_EQ(json.at("analytic").at("iterations"), 14);
}

RunReport repetition(const std::string& setting, double accuracy, std::optional<double> validation,
                     bool finished = true) {
  RunReport report;
  report.setting = setting;
  report.finished = finished;
  report.best_accuracy = report.last_accuracy = accuracy;
  report.last_validation_accuracy = validation;
  report.cost.totals.mean_bits.w = 10.0 * accuracy;
  return report;
}

TEST(RunAverage, IsOverFinishedRunsOfOneSetting) {
  const std::vector<RunReport> reports{repetition("a", 0.5, 0.6), repetition("b", 0.1, 0.1),
                                       repetition("a", 0.6, std::nullopt), repetition("a", 0.0, 0.0, false),
                                       repetition("a", 0.7, 0.8)};
  const auto averages = average_runs(reports);
  ASSERT_EQ(averages.size(), 1U);
  EXPECT_EQ(averages[0].runs, (std::vector<size_t>{0, 2, 4}));
  EXPECT_NEAR(averages[0].last_accuracy->mean, 0.6, 1e-12);
  EXPECT_NEAR(averages[0].last_accuracy->deviation, 0.1, 1e-12);
  EXPECT_NEAR(averages[0].bits_w->mean, 6.0, 1e-12);
  EXPECT_FALSE(averages[0].last_validation_accuracy) << "one of the runs has none";
  const std::vector<std::string> names{"r0", "r1", "r2", "r3", "r4"};
  const auto json = to_json(averages[0], names);
  EXPECT_EQ(json.at("mean_of"), nlohmann::json::parse(R"(["r0","r2","r4"])"));
  EXPECT_NEAR(json.at("best_accuracy").at("deviation").get<double>(), 0.1, 1e-12);
  EXPECT_TRUE(json.at("last_validation_accuracy").is_null());
}

TEST(RunAverage, NeedsTwoValues) {
  EXPECT_FALSE(spread_of(std::vector<double>{1.0}));
  EXPECT_EQ(spread_of(std::vector<double>{2.0, 2.0})->deviation, 0.0);
}

TEST(RunReport, OnlyARunHasAReport) { EXPECT_THROW(report_run("/nonexistent/run"), Error); }

}  // namespace
}  // namespace bitdial::train
