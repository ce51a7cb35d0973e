// Runs the built command as a user would.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>

namespace {

namespace fs = std::filesystem;

struct Result {
  int code = -1;
  std::string out;
  std::string err;
};

class CommandTest : public ::testing::Test {
 protected:
  CommandTest()
      : folder_(fs::temp_directory_path() /
                fmt::format("bitdial-command-{}-{}", ::getpid(),
                            ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::create_directories(folder_);
    std::ofstream(folder_ / "tiny.toml") << R"(
[data]
name = "shapes"
train_images = 96
test_images = 20
batch_size = 16
[model]
name = "lenet5"
[train]
epochs = 1
threads = 1
[precision]
policy = "float32"
)";
  }
  ~CommandTest() override { fs::remove_all(folder_); }

  static std::string slurp(const fs::path& path) {
    std::ifstream stream(path);
    std::stringstream content;
    content << stream.rdbuf();
    return content.str();
  }

  std::string in_folder(const std::string& arguments) const {
    return fmt::format(
        "cd '{0}' && export XDG_CACHE_HOME='{0}/cache' && exec '{1}' {2} >'{0}/out' 2>'{0}/err'",
        folder_.string(), BITDIAL_COMMAND, arguments);
  }

  Result bitdial(const std::string& arguments) const {
    const int status = std::system(in_folder(arguments).c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(folder_ / "out"), slurp(folder_ / "err")};
  }

  fs::path folder_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// One line that begins "bitdial: [".
void expect_one_line_error(const Result& result, int code) {
  EXPECT_EQ(result.code, code) << result.err;
  EXPECT_TRUE(result.err.starts_with("bitdial: [")) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

TEST_F(CommandTest, HelpsWithoutArguments) {
  const Result result = bitdial("");
  EXPECT_EQ(result.code, 0);
  for (const char* word :
       {"train", "eval", "export", "bench", "policies", "models", "data", "info", "--version"}) {
    EXPECT_TRUE(contains(result.out, word)) << word;
  }
  EXPECT_EQ(bitdial("train --help").code, 0);
}

TEST_F(CommandTest, SaysItsVersion) {
  const Result result = bitdial("--version");
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(result.out.starts_with("bitdial ")) << result.out;
}

TEST_F(CommandTest, SuggestsForWrongUsage) {
  Result result = bitdial("trian");
  expect_one_line_error(result, 2);
  EXPECT_TRUE(contains(result.err, "did you mean \"train\"")) << result.err;
  result = bitdial("train tiny.toml --epoch 3");
  expect_one_line_error(result, 2);
  EXPECT_TRUE(contains(result.err, "did you mean \"--epochs\"")) << result.err;
  expect_one_line_error(bitdial("train"), 2);
  expect_one_line_error(bitdial("train tiny.toml --resume x"), 2);
  expect_one_line_error(bitdial("train tiny.toml --epochs many"), 2);
}

TEST_F(CommandTest, CostsATrainingWithoutIt) {
  Result result =
      bitdial("cost --model resnet74-cifar --policy cpt --bits 3-8/8 --classes 100 --json cost.json");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "168,220,928")) << result.out;
  auto json = nlohmann::json::parse(slurp(folder_ / "cost.json"));
  EXPECT_EQ(json.at("macs"), 168220928);
  EXPECT_EQ(json.at("m_star"), 169658688);
  EXPECT_NEAR(json.at("ratio_fw8bw8").get<double>(), 0.63327, 5e-6);
  EXPECT_EQ(json.at("iterations"), 64000);
  EXPECT_EQ(json.at("batch"), 128);
  const auto paper = json.at("gbitops").get<double>();
  ASSERT_EQ(bitdial("cost --model resnet74-cifar --policy cpt --bits 3-8/8 --classes 100 --convention actual "
                    "--json cost.json")
                .code,
            0);
  json = nlohmann::json::parse(slurp(folder_ / "cost.json"));
  EXPECT_EQ(json.at("convention"), "actual");
  EXPECT_GT(json.at("gbitops").get<double>(), paper);
  result = bitdial("cost --model lenet5 --policy apt");
  expect_one_line_error(result, 1);
  EXPECT_TRUE(contains(result.err, "--run")) << result.err;
  expect_one_line_error(bitdial("cost"), 1);
  expect_one_line_error(bitdial("cost --model lenet5 --run x"), 2);
  expect_one_line_error(bitdial("cost --run x"), 1);
}

TEST_F(CommandTest, ComparesPublishedCosts) {
  Result result = bitdial("reproduce --list");
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(contains(result.out, "cpt-schedule")) << result.out;
  result = bitdial("reproduce apt-throughput --cost-only --json cells.json");
  EXPECT_EQ(result.code, 0) << result.out;
  const auto cells = nlohmann::json::parse(slurp(folder_ / "cells.json"));
  ASSERT_EQ(cells.size(), 8U);
  for (const auto& cell : cells) {
    EXPECT_EQ(cell.at("ok"), true);
    EXPECT_DOUBLE_EQ(cell.at("difference").get<double>(),
                     cell.at("ours").get<double>() - cell.at("paper").get<double>());
  }
  // The papers round: no cell of theirs equals ours to the last digit.
  result = bitdial("reproduce apt-throughput --cost-only --tolerance 0 --json cells.json");
  EXPECT_EQ(result.code, 1) << result.out;
  EXPECT_TRUE(contains(result.out, "OUT")) << result.out;
  EXPECT_EQ(nlohmann::json::parse(slurp(folder_ / "cells.json")).size(), 8U) << "written all the same";
  expect_one_line_error(bitdial("reproduce nothing --cost-only"), 1);
  expect_one_line_error(bitdial("reproduce apt-throughput --cost-only --background"), 1);
  expect_one_line_error(bitdial("reproduce apt-throughput --cost-only --epochs 2"), 2);
  expect_one_line_error(bitdial("reproduce"), 2);
}

TEST_F(CommandTest, TrainsTheRowsOfAPublishedTable) {
  const std::string command =
      "reproduce ldp-training-resnet20 --only 'cifar10 LDP 3' --epochs 1 --out runs --json cells.json --set "
      "data.name=shapes --set data.train_images=96 --set data.test_images=20 --set data.batch_size=16 --set "
      "model.name=lenet5 --set train.threads=1";
  Result result = bitdial(command);
  ASSERT_EQ(result.code, 0) << result.out << result.err;
  for (const char* scaled : {"train.epochs: 1 instead of 164", "precision.options.lr_beta: 1 instead of 0.1",
                             "schedule.milestones: "})
    EXPECT_TRUE(contains(result.out, scaled)) << scaled << "\n" << result.out;
  const auto first = nlohmann::json::parse(slurp(folder_ / "cells.json"));
  ASSERT_EQ(first.size(), 3U);  // two costs, one accuracy
  const auto& trained = first.back();
  EXPECT_EQ(trained.at("paper"), 92.08);
  EXPECT_DOUBLE_EQ(trained.at("difference").get<double>(), trained.at("ours").get<double>() - 92.08);
  EXPECT_TRUE(trained.at("ok").is_null());
  // A finished run is taken as it is; another length wants another folder.
  ASSERT_EQ(bitdial(command + " --background").code, 0);
  for (int wait = 0;
       wait < 300 && !contains(slurp(folder_ / "runs/ldp-training-resnet20.log"), "cells of costs"); ++wait)
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(nlohmann::json::parse(slurp(folder_ / "cells.json")), first);
  result = bitdial(command + " --set optimizer.momentum=0.5");
  expect_one_line_error(result, 1);
  EXPECT_TRUE(contains(result.err, "--out")) << result.err;
}

TEST_F(CommandTest, ReportsAndReplaysARun) {
  ASSERT_EQ(bitdial("train tiny.toml --policy static:8/8/16 --out run").code, 0);
  Result result = bitdial("report run --json report.json");
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* word : {"int8xint16", "conv1", "BitOPs, analytic", "measured"})
    EXPECT_TRUE(contains(result.out, word)) << word << "\n" << result.out;
  const auto json = nlohmann::json::parse(slurp(folder_ / "report.json"));
  ASSERT_EQ(json.size(), 1U);
  EXPECT_EQ(json.at(0).at("run"), "run");
  EXPECT_EQ(json.at(0).at("steps"), 6);
  result = bitdial("replay run");
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_TRUE(contains(result.out, " 0 differences")) << result.out;
  std::ofstream(folder_ / "run/precision.jsonl", std::ios::app)
      << R"({"step":3,"layer":"conv1","tensor":"w","bits":5,"arithmetic":"int8","reason":"forged"})" << '\n';
  result = bitdial("replay run");
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(contains(result.out, " 1 differences")) << result.out;
  expect_one_line_error(bitdial("report nothing"), 1);
}

TEST_F(CommandTest, SuggestsNearestNames) {
  Result result = bitdial("train tiny.toml --policy atp");
  expect_one_line_error(result, 1);
  EXPECT_TRUE(contains(result.err, "\"apt\"")) << result.err;
  result = bitdial("train tiny.toml --set train.epoch=2");
  expect_one_line_error(result, 1);
  EXPECT_TRUE(contains(result.err, "epochs")) << result.err;
  result = bitdial("train tinny.toml");
  expect_one_line_error(result, 1);
  result = bitdial("models resnet20");
  expect_one_line_error(result, 1);
  EXPECT_TRUE(contains(result.err, "resnet20-cifar")) << result.err;
  expect_one_line_error(bitdial("policies nothing"), 1);
  EXPECT_FALSE(fs::exists(folder_ / "runs")) << "nothing is created before the arguments are right";
}

TEST_F(CommandTest, ListsModelsAndPolicies) {
  Result result = bitdial("models");
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(contains(result.out, "1,814,073,344")) << result.out;  // ResNet-18 at 1000 classes
  EXPECT_TRUE(contains(result.out, "layer table only")) << result.out;
  EXPECT_TRUE(contains(bitdial("models pan-x4").out, "SCPA_trunk.15.conv3"));
  result = bitdial("models resnet20-cifar --classes 100");
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(contains(result.out, "layer2.0.downsample.0")) << result.out;
  EXPECT_TRUE(contains(result.out, "40,818,944")) << result.out;
  result = bitdial("policies");
  EXPECT_EQ(result.code, 0);
  for (const char* name : {"float32", "bf16", "static", "apt"})
    EXPECT_TRUE(contains(result.out, name)) << name;
  EXPECT_EQ(bitdial("policies apt").code, 0);
}

TEST_F(CommandTest, ShowsTheMachine) {
  const Result result = bitdial("info");
  EXPECT_EQ(result.code, 0);
  for (const char* word : {"CPU", "scalar", "active", "threads", "LibTorch", "int", "bfloat16"}) {
    EXPECT_TRUE(contains(result.out, word)) << word << "\n" << result.out;
  }
  // Two runtimes in one process would compete for the cores.
  const size_t begin = result.out.find("OpenMP runtime");
  const std::string line = result.out.substr(begin, result.out.find('\n', begin) - begin);
  EXPECT_TRUE(contains(line, "omp")) << line;
  EXPECT_FALSE(contains(line, ",")) << line;
}

TEST_F(CommandTest, PlansAStep) {
  Result result = bitdial("plan lenet5 --batch 2 --json plan.json");
  ASSERT_EQ(result.code, 0) << result.err;
  // 5 layers, 14 GEMMs, 4 arithmetics; 6 sizes of passes.
  EXPECT_TRUE(contains(result.err, "timing 62 kernels")) << result.err;
  for (const char* word :
       {"conv2", "WTGRAD", "int16 ms", "bfloat16 ms", "choice", "training step", "cache/bitdial"}) {
    EXPECT_TRUE(contains(result.out, word)) << word << "\n" << result.out;
  }
  const auto plan = nlohmann::json::parse(slurp(folder_ / "plan.json"));
  EXPECT_EQ(plan.at("batch"), 2);
  ASSERT_EQ(plan.at("layers").size(), 5U);
  EXPECT_EQ(plan.at("layers")[0].at("gemms").size(), 2U) << "nobody reads the first layer's dX";
  const auto& layer = plan.at("layers")[1];
  EXPECT_EQ(layer.at("gemms").size(), 3U);
  EXPECT_EQ(layer.at("macs"), 2 * 240000);  // 16 x 10 x 10 outputs of 6 x 5 x 5 products
  double sum = plan.at("other_ms").get<double>();
  for (const auto& one : plan.at("layers")) sum += one.at("ms").get<double>();
  EXPECT_NEAR(plan.at("step_ms").get<double>(), sum, 1e-6 * sum);
  result = bitdial("plan lenet5 --batch 2");
  EXPECT_EQ(result.code, 0);
  expect_one_line_error(bitdial("plan lenet6"), 1);
  expect_one_line_error(bitdial("plan lenet5 --batch 0"), 2);
  result = bitdial("plan lenet5 --batch 2 --json nowhere/plan.json");
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(contains(result.err, "bitdial: [plan] cannot write nowhere/plan.json")) << result.err;
}

TEST_F(CommandTest, GoesOnWithMoreEpochs) {
  ASSERT_EQ(bitdial("train tiny.toml --out run").code, 0);
  Result result = bitdial("train --resume run");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "bitdial train --resume run --epochs 2")) << result.out;
  result = bitdial("train --resume run --epochs 2");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "2 epochs, 12 steps")) << result.out;
  expect_one_line_error(bitdial("train --resume run --epochs 2"), 1);
  expect_one_line_error(bitdial("train --resume run --policy apt"), 2);
}

TEST_F(CommandTest, HoldsOutAFold) {
  const Result result = bitdial("train tiny.toml --fold 2/4 --set data.validation=0 --out run");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.err, "72 training, 24 validation and 20 test images")) << result.err;
  EXPECT_TRUE(contains(result.out, "on 24 images held out")) << result.out;
  EXPECT_TRUE(contains(slurp(folder_ / "run/recipe.toml"), "fold = \"2/4\"")) << "a resumed run needs it";
  ASSERT_EQ(bitdial("train tiny.toml --fold 3/4 --seed 5 --out other").code, 0);
  ASSERT_EQ(bitdial("train tiny.toml --fold 2/4 --policy static --out third").code, 0);
  const Result report = bitdial("report run other third --no-layers --json report.json");
  ASSERT_EQ(report.code, 0) << report.err;
  EXPECT_TRUE(contains(report.out, "of 2 runs that differ in seed or fold alone: run other\n")) << report.out;
  const auto json = nlohmann::json::parse(slurp(folder_ / "report.json"));
  ASSERT_EQ(json.size(), 4U);
  EXPECT_EQ(json.at(1).at("fold"), "3/4");
  EXPECT_NEAR(json.at(3).at("last_validation_accuracy").at("mean").get<double>(),
              0.5 * (json.at(0).at("last_validation_accuracy").get<double>() +
                     json.at(1).at("last_validation_accuracy").get<double>()),
              1e-12);
  expect_one_line_error(bitdial("train tiny.toml --fold 5/4"), 1);
  expect_one_line_error(bitdial("train tiny.toml --set model.name=pan-x4"), 1);
}

TEST_F(CommandTest, TrainsEvaluatesAndExports) {
  Result result = bitdial("train tiny.toml --policy static");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "test accuracy")) << result.out;
  EXPECT_TRUE(contains(result.out, "runs/tiny-static-1")) << result.out;
  EXPECT_TRUE(fs::exists(folder_ / "runs/tiny-static-1/metrics.jsonl"));

  result = bitdial("eval runs/tiny-static-1");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "static") && contains(result.out, "float32, same weights")) << result.out;

  for (const char* file : {"w.pt", "w.safetensors"}) {
    EXPECT_EQ(bitdial(fmt::format("export runs/tiny-static-1 {}", file)).code, 0);
    result = bitdial(fmt::format("train tiny.toml --init {0} --out from-{0}", file));
    EXPECT_EQ(result.code, 0) << result.err;
  }
  expect_one_line_error(bitdial("export runs/tiny-static-1 w.onnx"), 1);
  // What a policy with weights of its own delivers is evaluated, exported and trained from alike.
  result = bitdial("train tiny.toml --policy adapt --out adapt");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "quantised network in adapt/quantized.safetensors: ")) << result.out;
  result = bitdial("eval adapt/quantized.safetensors");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "adapt (integer)")) << result.out;
  EXPECT_EQ(bitdial("export adapt/quantized.safetensors adapt.pt").code, 0);
  EXPECT_EQ(bitdial("train tiny.toml --init adapt.pt --out from-adapt").code, 0);
  expect_one_line_error(bitdial("train tiny.toml --out runs/tiny-static-1"), 1);
  expect_one_line_error(bitdial("train tiny.toml --init w.pt --set model.name=resnet20-cifar"), 1);
  expect_one_line_error(bitdial("eval nowhere"), 1);
}

TEST_F(CommandTest, SavesOnCtrlCAndGoesOn) {
  const std::string command = in_folder(
      "train tiny.toml --out run --set data.train_images=2000 --epochs 1000 --set train.log_every=1");
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!contains(slurp(folder_ / "run/metrics.jsonl"), "\"step\"") &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ASSERT_EQ(::kill(child, SIGINT), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
  const std::string out = slurp(folder_ / "out");
  EXPECT_TRUE(contains(out, "bitdial train --resume run")) << out;
  EXPECT_FALSE(fs::is_empty(folder_ / "run/checkpoints"));
}

TEST_F(CommandTest, FindsTheLowestPrecisionThatLearns) {
  Result result = bitdial(
      "train tiny.toml --policy cpt:3-4/8 --range-test --range-test-window 2"
      " --range-test-threshold -1");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "--set precision.policy=cpt:2-4/8")) << result.out;
  EXPECT_FALSE(fs::exists(folder_ / "runs")) << "no run is left behind";
  result = bitdial(
      "train tiny.toml --policy cpt:3-4/8 --range-test --range-test-window 2"
      " --range-test-threshold 1 --range-test-start 4");
  EXPECT_TRUE(contains(result.out, "no precision up to 4 bits")) << result.out;
  expect_one_line_error(bitdial("train tiny.toml --policy apt --range-test"), 1);
  expect_one_line_error(bitdial("train tiny.toml --range-test-window 3"), 2);
}

TEST_F(CommandTest, TrainsWithTwoPolicies) {
  const Result result = bitdial(
      "train tiny.toml --policy cpt --gradient-policy apt --set precision.options.cycles=1 --out two");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.err, "policy cpt, gradients apt")) << result.err;
  EXPECT_TRUE(contains(result.out, "in the policy's final precision")) << result.out;
  EXPECT_TRUE(contains(slurp(folder_ / "two" / "recipe.toml"), "gradient_policy = \"apt\""));
  EXPECT_TRUE(contains(bitdial("eval two").out, "cpt, final precision"));
}

TEST_F(CommandTest, TimesStepsOfEveryPolicy) {
  const Result result = bitdial(
      "bench step --model lenet5 --batch 8 --policy all --threads 1 --kept 1 --time-limit 2 --json "
      "rows.json");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.err, "left out: [schedule] no layer matches \"layer1.*\"")) << result.err;
  const auto rows = nlohmann::json::parse(slurp(folder_ / "rows.json"));
  std::vector<std::string> names;
  for (const auto& row : rows) {
    const auto name = row.at("name").get<std::string>();
    names.push_back(name);
    if (name.starts_with("pytorch")) {
      EXPECT_TRUE(row.at("policy_share").is_null()) << name;
      continue;
    }
    const double share = row.at("policy_share").get<double>();
    EXPECT_GT(share, 0.0) << name;
    EXPECT_LT(share, 1.0) << name;
  }
  for (const char* name : {"pytorch-float32", "static", "sbm", "cpt", "pfq", "apt", "auto", "ldp"}) {
    EXPECT_TRUE(std::ranges::find(names, name) != names.end()) << name;
  }
}

TEST_F(CommandTest, SaysWhatItCanBesideOtherWork) {
  // More repetitions than the time allows, as on cores that are never idle.
  const Result result = bitdial(
      "bench step --model lenet5 --batch 8 --policy static --no-bf16 --threads 1 --kept 1000000 "
      "--time-limit 0.2 --json rows.json");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "refused")) << result.out;
  EXPECT_TRUE(contains(result.out, "beside that work, medians of")) << result.out;
  const auto rows = nlohmann::json::parse(slurp(folder_ / "rows.json"));
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].at("paired_vs_float32"), 1.0);
  EXPECT_GT(rows[1].at("rounds"), 1);
  EXPECT_GT(rows[1].at("paired_vs_float32").get<double>(), 0.0);
  for (const char* none : {"speedup_vs_float32", "speedup_vs_bf16", "paired_vs_bf16"}) {
    EXPECT_TRUE(rows[1].at(none).is_null()) << none;
  }
}

}  // namespace
