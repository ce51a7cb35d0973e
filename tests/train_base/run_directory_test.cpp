#include "bitdial/train/run_directory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <limits>
#include <sstream>

#include "bitdial/core/error.h"

namespace bitdial::train {
namespace {

namespace fs = std::filesystem;

class RunDirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / ("bitdial_run_" + std::to_string(::getpid()) + "_" + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::string text_of(const fs::path& path) {
    std::ifstream stream(path, std::ios::binary);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
  }

  static MetricsLine step_line(int64_t step) {
    MetricsLine line;
    line.step = step;
    line.loss = 1.0 / static_cast<double>(step + 3);
    line.lr = 0.1;
    return line;
  }

  static PrecisionLine decision(int64_t step) {
    PrecisionLine line;
    line.step = step;
    line.layer = "conv1";
    line.tensor = TensorRole::kGradBprop;
    line.bits = 16;
    line.scale_log2 = -14.0;
    line.arithmetic = "int16xint8";
    line.reason = "widened";
    line.evidence = {{"Z", 0.1}};
    return line;
  }

  fs::path folder_;
};

TEST_F(RunDirectoryTest, LinesHaveTheDocumentedKeys) {
  MetricsLine metrics;
  metrics.kind = MetricsLine::Kind::kEpoch;
  metrics.epoch = 2;
  metrics.step = 781;
  metrics.loss = 0.5;
  metrics.accuracy = 0.75;
  metrics.lr = 0.1;
  metrics.images_per_s = 1000;
  metrics.bits_w = metrics.bits_a = 8;
  metrics.bits_dy = 10.5;
  metrics.bits_w_by_macs = metrics.bits_a_by_macs = 8;
  metrics.bits_dy_by_macs = 9.25;
  metrics.gbitops = 1200;
  metrics.ratio_fw8bw8 = 1.25;
  metrics.ratio_float32 = 0.078125;
  metrics.gbitops_actual = 1300;
  metrics.ratio_float32_actual = 0.125;
  metrics.size_ratio = 0.25;
  metrics.memory_ratio = 1.5;
  metrics.macs_percent = {{"int8", 75.0}, {"float32", 25.0}};
  EXPECT_EQ(
      to_json_line(metrics).dump(),
      R"({"kind":"epoch","epoch":2,"step":781,"loss":0.5,"accuracy":0.75,"lr":0.1,"images_per_s":1000.0,)"
      R"("bits_w":8.0,"bits_a":8.0,"bits_dy":10.5,)"
      R"("bits_w_by_macs":8.0,"bits_a_by_macs":8.0,"bits_dy_by_macs":9.25,)"
      R"("gbitops":1200.0,"ratio_fw8bw8":1.25,"ratio_float32":0.078125,)"
      R"("gbitops_actual":1300.0,"ratio_float32_actual":0.125,"size_ratio":0.25,"memory_ratio":1.5,)"
      R"("macs_percent":{"float32":25.0,"int8":75.0}})");
  EXPECT_EQ(to_json_line(GemmLine{5, "conv1", Gemm::kWtgrad, "int8xint16", 400}).dump(),
            R"({"step":5,"layer":"conv1","gemm":"WTGRAD","arithmetic":"int8xint16","macs":400})");
  metrics.final_loss = 0.25;
  metrics.final_accuracy = 0.875;
  EXPECT_NE(
      to_json_line(metrics).dump().find(R"("accuracy":0.75,"final_loss":0.25,"final_accuracy":0.875,"lr")"),
      std::string::npos);
  metrics.loss = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(to_json_line(metrics).at("loss").is_null());

  EXPECT_EQ(
      to_json_line(decision(3)).dump(),
      R"({"step":3,"layer":"conv1","tensor":"dy_bprop","bits":16,"scale_log2":-14.0,"arithmetic":"int16xint8",)"
      R"("reason":"widened","evidence":{"Z":0.1}})");
  PrecisionLine fixed = decision(3);
  fixed.scale_log2.reset();
  fixed.fraction_length = 7;
  fixed.evidence = nullptr;
  EXPECT_EQ(
      to_json_line(fixed).dump(),
      R"({"step":3,"layer":"conv1","tensor":"dy_bprop","bits":16,"fraction_length":7,"arithmetic":"int16xint8",)"
      R"("reason":"widened"})");
}

TEST_F(RunDirectoryTest, CreateLeavesRecipeAndLogs) {
  Recipe recipe;
  recipe.train.epochs = 7;
  const fs::path run = folder_ / "deep" / "run";
  EXPECT_FALSE(RunDirectory::is_run(run));
  RunDirectory directory = RunDirectory::create(run, recipe);
  EXPECT_TRUE(RunDirectory::is_run(run));
  EXPECT_EQ(load_recipe(directory.recipe_file()), recipe);
  EXPECT_TRUE(fs::is_directory(directory.checkpoints()));
  directory.write(step_line(0));
  directory.write(decision(0));
  EXPECT_EQ(nlohmann::json::parse(text_of(directory.metrics_file())).at("kind"), "step");
  EXPECT_EQ(nlohmann::json::parse(text_of(directory.precision_file())).at("tensor"), "dy_bprop");
  try {
    RunDirectory::create(run, recipe);
    FAIL() << "a run must not be overwritten";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--resume"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find(run.string()), std::string::npos);
  }
  EXPECT_THROW(RunDirectory::open(folder_), Error);
}

// An interrupted run's logs equal those of one that was not.
TEST_F(RunDirectoryTest, RewindTakesBackWhatCameAfterTheCheckpoint) {
  const auto write_steps = [](RunDirectory& run, int64_t begin, int64_t end) {
    for (int64_t step = begin; step < end; ++step) {
      run.write(step_line(step));
      if (step % 3 == 0) run.write(decision(step));
    }
  };
  RunDirectory whole = RunDirectory::create(folder_ / "whole", {});
  write_steps(whole, 0, 20);

  nlohmann::json position;
  {
    RunDirectory run = RunDirectory::create(folder_ / "cut", {});
    write_steps(run, 0, 8);
    position = nlohmann::json::parse(run.sync().dump());
    write_steps(run, 8, 13);
  }
  std::ofstream(folder_ / "cut" / "metrics.jsonl", std::ios::app) << R"({"kind":"st)";  // killed in mid-line
  RunDirectory resumed = RunDirectory::open(folder_ / "cut");
  resumed.rewind(position);
  write_steps(resumed, 8, 20);
  EXPECT_EQ(text_of(resumed.metrics_file()), text_of(whole.metrics_file()));
  EXPECT_EQ(text_of(resumed.precision_file()), text_of(whole.precision_file()));
}

// A run that failed before its first step (no data, say) does not block the folder.
TEST_F(RunDirectoryTest, RecipeAloneIsNoRun) {
  Recipe recipe;
  { RunDirectory::create(folder_, recipe); }
  recipe.train.epochs = 99;
  { EXPECT_EQ(load_recipe(RunDirectory::create(folder_, recipe).recipe_file()), recipe); }
  std::ofstream(folder_ / "checkpoints" / "step-1.safetensors") << "x";
  EXPECT_THROW(RunDirectory::create(folder_, recipe), Error);
}

TEST_F(RunDirectoryTest, TwoWritersAreRefused) {
  RunDirectory first = RunDirectory::create(folder_, {});
  try {
    RunDirectory::open(folder_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("another process"), std::string::npos) << error.what();
  }
  RunDirectory moved = std::move(first);
  moved.write(step_line(0));
  EXPECT_FALSE(text_of(moved.metrics_file()).empty());
}

TEST_F(RunDirectoryTest, RewindOfAShortenedFileKeepsWholeLines) {
  const fs::path path = folder_ / "lines.jsonl";
  std::ofstream(path) << "{\"a\":1}\n{\"b\":2}\n{\"c\"";
  LineFile file(path);
  file.rewind(1000);
  EXPECT_EQ(text_of(path), "{\"a\":1}\n{\"b\":2}\n");
  file.append({{"d", 4}});
  EXPECT_EQ(text_of(path), "{\"a\":1}\n{\"b\":2}\n{\"d\":4}\n");
  file.rewind(0);
  EXPECT_EQ(text_of(path), "");
}

TEST_F(RunDirectoryTest, UnwritablePlacesNameThePath) {
  const fs::path occupied = folder_ / "file";
  std::ofstream(occupied) << "x";
  try {
    RunDirectory::create(occupied / "run", {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find((occupied / "run").string()), std::string::npos) << error.what();
  }
  EXPECT_THROW(LineFile(folder_ / "missing" / "lines.jsonl"), Error);
}

TEST_F(RunDirectoryTest, FullDiskIsOneErrorThatNamesThePath) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  LineFile full("/dev/full");
  try {
    full.append({{"a", 1}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/dev/full"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos) << error.what();
  }
}

// A line that does not fit leaves no part of itself: the process may write no file beyond 64 bytes.
TEST_F(RunDirectoryTest, HalfWrittenLineIsTakenBack) {
  const fs::path path = folder_ / "lines.jsonl";
  LineFile file(path);
  file.append({{"a", std::string(40, 'x')}});
  const std::string before = text_of(path);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 64, .rlim_max = old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(file.append({{"b", std::string(40, 'y')}}), Error);
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(text_of(path), before);
  file.append({{"c", 1}});
  EXPECT_EQ(text_of(path), before + "{\"c\":1}\n");
}

}  // namespace
}  // namespace bitdial::train
