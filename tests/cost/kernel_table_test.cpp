#include "bitdial/cost/kernel_table.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"

namespace bitdial::cost {
namespace {

namespace fs = std::filesystem;

GemmWork small_work(GemmArithmetic arithmetic, Gemm gemm = Gemm::kFprop) {
  GemmWork work;
  work.gemm = gemm;
  work.arithmetic = arithmetic;
  work.shape.batch = 2;
  work.shape.in_channels = 4;
  work.shape.in_height = work.shape.in_width = 6;
  work.shape.out_channels = 5;
  work.shape.kernel_height = work.shape.kernel_width = 3;
  work.shape.padding_height = work.shape.padding_width = 1;
  return work;
}

class KernelTableTest : public ::testing::Test {
 protected:
  KernelTableTest()
      : folder_(fs::temp_directory_path() /
                fmt::format("bitdial-cost-{}-{}", ::getpid(),
                            ::testing::UnitTest::GetInstance()->current_test_info()->name())),
        file_(folder_ / "sub" / "times.json") {}
  ~KernelTableTest() override { fs::remove_all(folder_); }

  // Answers 1 ms, 2 ms, ... and counts.
  KernelTable table(bool certain = true, Machine machine = {"cpu", "isa", 2, "1"}) {
    return KernelTable(file_, machine, [this, certain](const std::function<void()>&, double hopeless) {
      hopeless_.push_back(hopeless);
      return Timing{.seconds = 1e-3 * ++measured_, .is_certain = certain};
    });
  }

  fs::path folder_, file_;
  int measured_ = 0;
  std::vector<double> hopeless_;
};

TEST_F(KernelTableTest, MeasuresOnceAndKeepsIt) {
  auto first = table();
  EXPECT_EQ(first.gemm(small_work(GemmArithmetic::kInt8)), 1e-3);
  EXPECT_EQ(first.gemm(small_work(GemmArithmetic::kInt16)), 2e-3);
  EXPECT_EQ(first.gemm(small_work(GemmArithmetic::kInt8, Gemm::kBprop)), 3e-3);
  EXPECT_EQ(first.gemm(small_work(GemmArithmetic::kInt8)), 1e-3);
  auto second = table();
  EXPECT_EQ(second.gemm(small_work(GemmArithmetic::kInt16)), 2e-3);
  EXPECT_EQ(measured_, 3);
}

TEST_F(KernelTableTest, AnotherMachineStartsAnew) {
  table().gemm(small_work(GemmArithmetic::kInt8));
  for (const Machine& other : {Machine{"other", "isa", 2, "1"}, Machine{"cpu", "other", 2, "1"},
                               Machine{"cpu", "isa", 1, "1"}, Machine{"cpu", "isa", 2, "2"}}) {
    const int before = measured_;
    table(true, other).gemm(small_work(GemmArithmetic::kInt8));
    EXPECT_EQ(measured_, before + 1);
  }
}

TEST_F(KernelTableTest, DamagedCachesAreReplaced) {
  const auto write = [&](const std::string& text) {
    fs::create_directories(file_.parent_path());
    std::ofstream(file_) << text;
  };
  table().gemm(small_work(GemmArithmetic::kInt8));
  std::ifstream stream(file_);
  const std::string good((std::istreambuf_iterator<char>(stream)), {});
  auto negative = nlohmann::json::parse(good);
  negative["times"].front()["seconds"] = -1.0;
  for (const std::string& bad : {std::string(), good.substr(0, good.size() / 2), std::string("[1, 2]"),
                                 std::string("{\"machine\": 3}"), negative.dump()}) {
    write(bad);
    const int before = measured_;
    table().gemm(small_work(GemmArithmetic::kInt8));
    EXPECT_EQ(measured_, before + 1) << bad;
    table().gemm(small_work(GemmArithmetic::kInt8));
    EXPECT_EQ(measured_, before + 1) << "repaired after " << bad;
  }
}

TEST_F(KernelTableTest, UncertainTimesAreMeasuredAgain) {
  auto contended = table(false);
  EXPECT_EQ(contended.gemm(small_work(GemmArithmetic::kInt8)), 1e-3);
  EXPECT_EQ(contended.gemm(small_work(GemmArithmetic::kInt8)), 1e-3) << "once per process";
  const std::vector<GemmWork> works{small_work(GemmArithmetic::kInt8), small_work(GemmArithmetic::kInt8)};
  EXPECT_EQ(contended.uncertain(works), 1);
  auto again = table(false);
  EXPECT_EQ(again.gemm(small_work(GemmArithmetic::kInt8)), 1e-3) << "the faster of two uncertain ones";
  EXPECT_EQ(measured_, 2);
  auto quiet = table(true);
  EXPECT_EQ(quiet.gemm(small_work(GemmArithmetic::kInt8)), 3e-3);
  EXPECT_EQ(quiet.uncertain(works), 0);
}

TEST_F(KernelTableTest, NotForEver) {
  const std::vector<GemmWork> works{small_work(GemmArithmetic::kInt8)};
  for (int i = 0; i < KernelTable::kAttempts + 2; ++i) {
    auto contended = table(false);
    EXPECT_EQ(contended.gemm(works[0]), 1e-3) << "the fastest of them";
    EXPECT_EQ(contended.uncertain(works), 1);
  }
  EXPECT_EQ(measured_, KernelTable::kAttempts);
}

TEST_F(KernelTableTest, MuchSlowerThanFloat32IsOfNoInterest) {
  auto times = table();
  times.gemm(small_work(GemmArithmetic::kInt8));
  times.gemm(small_work(GemmArithmetic::kFloat32));  // 2 ms
  times.gemm(small_work(GemmArithmetic::kBFloat16));
  times.gemm(small_work(GemmArithmetic::kBFloat16, Gemm::kBprop));
  const double unknown = std::numeric_limits<double>::infinity();
  EXPECT_EQ(hopeless_, (std::vector<double>{unknown, unknown, 3 * 2e-3, unknown}));
}

TEST_F(KernelTableTest, ProcessesShareAFile) {
  auto a = table(), b = table();
  a.gemm(small_work(GemmArithmetic::kInt8));
  b.gemm(small_work(GemmArithmetic::kInt16));
  auto c = table();
  EXPECT_EQ(c.gemm(small_work(GemmArithmetic::kInt8)), 1e-3);
  EXPECT_EQ(c.gemm(small_work(GemmArithmetic::kInt16)), 2e-3);
}

TEST_F(KernelTableTest, WorksWhereNothingCanBeWritten) {
  fs::create_directories(folder_);
  std::ofstream(folder_ / "sub") << "a file where a folder should be";
  auto unwritable = table();
  EXPECT_EQ(unwritable.gemm(small_work(GemmArithmetic::kInt8)), 1e-3);
  EXPECT_EQ(unwritable.gemm(small_work(GemmArithmetic::kInt8)), 1e-3);
}

TEST_F(KernelTableTest, PreparesWhatIsUnknown) {
  auto times = table();
  times.gemm(small_work(GemmArithmetic::kInt8));
  const std::vector<GemmWork> works{small_work(GemmArithmetic::kInt8), small_work(GemmArithmetic::kInt16),
                                    small_work(GemmArithmetic::kInt16), small_work(GemmArithmetic::kFloat32)};
  std::vector<std::pair<int64_t, int64_t>> seen;
  // Two sizes that share a time.
  const std::vector<PassWork> passes{{.pass = Pass::kQuantize, .elements = 5000},
                                     {.pass = Pass::kQuantize, .elements = 6000}};
  times.prepare(works, passes, [&](int64_t done, int64_t all) { seen.emplace_back(done, all); });
  EXPECT_EQ(seen, (std::vector<std::pair<int64_t, int64_t>>{{0, 3}, {1, 3}, {2, 3}, {3, 3}}));
  EXPECT_EQ(times.gemm(works[1]), 2e-3) << "in this order";
  times.pass(Pass::kQuantize, 7000);
  EXPECT_EQ(measured_, 4);
}

TEST_F(KernelTableTest, PassesScaleWithTheirElements) {
  auto times = table();
  EXPECT_DOUBLE_EQ(times.pass(Pass::kQuantize, 1 << 20), 1e-3);
  EXPECT_DOUBLE_EQ(times.pass(Pass::kQuantize, 3 << 18), 0.75e-3);
  EXPECT_EQ(times.pass(Pass::kQuantize, 0), 0.0);
  EXPECT_EQ(measured_, 1);
}

TEST(CacheFolder, FollowsTheSpecification) {
  const char* const old = std::getenv("XDG_CACHE_HOME");
  const std::string kept = old != nullptr ? old : "";
  ::setenv("XDG_CACHE_HOME", "/somewhere", 1);
  EXPECT_EQ(cache_folder(), "/somewhere/bitdial");
  ::setenv("XDG_CACHE_HOME", "relative", 1);
  EXPECT_TRUE(cache_folder().string().ends_with("/.cache/bitdial"));
  old != nullptr ? ::setenv("XDG_CACHE_HOME", kept.c_str(), 1) : ::unsetenv("XDG_CACHE_HOME");
}

TEST(Measuring, EveryArithmeticAndDirection) {
  set_num_threads(1);
  KernelTable table({}, this_machine(), [](const std::function<void()>& work, double hopeless) {
    Stopwatch watch({.repetitions = 3, .patience = 5, .least_seconds = 0.005});
    return watch.time(work, hopeless);
  });
  for (int arithmetic = 0; arithmetic < kGemmArithmetics; ++arithmetic) {
    for (const Gemm gemm : {Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad}) {
      GemmWork work = small_work(static_cast<GemmArithmetic>(arithmetic), gemm);
      const double small = table.gemm(work);
      work.shape.batch = 32;
      work.shape.in_height = work.shape.in_width = 16;
      EXPECT_GT(small, 0.0) << key_of(work);
      EXPECT_GT(table.gemm(work), 0.0) << key_of(work);
      GemmWork linear = work;
      linear.shape = {};
      linear.shape.batch = 7;
      linear.shape.in_channels = 33;
      linear.shape.out_channels = 10;
      EXPECT_GT(table.gemm(linear), 0.0);
    }
  }
  for (const Pass pass : {Pass::kQuantize, Pass::kBFloat16, Pass::kStream}) {
    EXPECT_GT(table.pass(pass, 1 << 18), table.pass(pass, 1 << 12));
  }
  GemmWork impossible = small_work(GemmArithmetic::kInt8);
  impossible.shape.in_channels = 0;
  EXPECT_THROW(table.gemm(impossible), Error);
}

TEST(Measuring, HopelessWorkRunsTwice) {
  set_num_threads(1);
  Stopwatch watch({.repetitions = 3, .patience = 5, .least_seconds = 0.005});
  int calls = 0;
  const auto work = [&] {
    ++calls;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  };
  EXPECT_GE(watch.time(work, 1e-3).seconds, 2e-3);
  EXPECT_EQ(calls, 2);
  calls = 0;
  watch.time(work, 10.0);
  EXPECT_GE(calls, 4) << "the warm-up and three repetitions";
}

}  // namespace
}  // namespace bitdial::cost
