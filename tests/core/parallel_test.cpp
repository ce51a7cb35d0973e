#include "bitdial/core/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bitdial/core/error.h"

namespace bitdial {
namespace {

class Parallel : public testing::Test {
 protected:
  ~Parallel() override { set_num_threads(before_); }
  int before_ = num_threads();
};

TEST_F(Parallel, RangesCoverEverythingOnce) {
  for (const int threads : {1, 2, 3, 5}) {
    set_num_threads(threads);
    for (const int64_t count : {0, 1, 2, 3, 7, 64, 1001}) {
      for (const int64_t grain : {0, 1, 3, 100, 5000}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
        std::atomic<int> calls = 0;
        parallel_for(count, grain, [&](int64_t begin, int64_t end) {
          ++calls;
          EXPECT_LT(begin, end);
          for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
        });
        for (const auto& visit : visits) EXPECT_EQ(visit, 1);
        EXPECT_LE(calls, (count + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1));
        EXPECT_LE(calls, 16 * threads);
      }
    }
  }
}

TEST_F(Parallel, EachThreadBeginsWithItsOwnRange) {
  set_num_threads(3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::set<std::thread::id> threads;
    std::mutex mutex;
    parallel_for(3, 1, [&](int64_t, int64_t) {
      const std::lock_guard lock(mutex);
      threads.insert(std::this_thread::get_id());
    });
    EXPECT_EQ(threads.size(), 3U);
  }
}

TEST_F(Parallel, AThreadThatIsReadyTakesOverWhatAnotherHasNotBegun) {
  set_num_threads(2);
  std::atomic<int> done = 0;
  parallel_for(16, 1, [&](int64_t begin, int64_t) {
    // The first range does not end before all others have: only the other thread can run them.
    while (begin == 0 && done < 15) std::this_thread::yield();
    ++done;
  });
  EXPECT_EQ(done, 16);
}

TEST_F(Parallel, NestedCallsAreSerial) {
  set_num_threads(2);
  std::atomic<int> inner_calls = 0;
  std::atomic<int> outer_calls = 0;
  parallel_for(2, 1, [&](int64_t begin, int64_t end) {
    ++outer_calls;
    for (int64_t i = begin; i < end; ++i) {
      parallel_for(100, 1, [&](int64_t inner_begin, int64_t inner_end) {
        ++inner_calls;
        if (outer_calls > 1) {
          EXPECT_EQ(inner_end - inner_begin, 100);
        }
      });
    }
  });
  EXPECT_LE(inner_calls, 16);
}

TEST_F(Parallel, ExceptionsReachTheCaller) {
  set_num_threads(3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::string caught;
    try {
      parallel_for(30, 1, [](int64_t begin, int64_t) { throw std::runtime_error(std::to_string(begin)); });
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    EXPECT_EQ(caught, "0");  // the first range's, whatever the timing
  }
  std::atomic<int> sum = 0;  // and the pool still works
  parallel_for(30, 1, [&](int64_t begin, int64_t end) { sum += static_cast<int>(end - begin); });
  EXPECT_EQ(sum, 30);
}

TEST_F(Parallel, ThreadCountsArePositive) {
  EXPECT_GE(num_threads(), 1);
  EXPECT_THROW(set_num_threads(0), Error);
}

}  // namespace
}  // namespace bitdial
