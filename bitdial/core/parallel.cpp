#include "bitdial/core/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <utility>
#include <vector>

#include "bitdial/core/error.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace bitdial {

#ifdef _OPENMP

int num_threads() { return omp_get_max_threads(); }

void set_num_threads(int threads) {
  require(threads >= 1, "threads", "{} threads asked for, at least 1 is needed", threads);
  omp_set_num_threads(threads);
}

namespace {

/// A thread's range in chunks: its own thread begins with the first one, the others go to whoever comes
/// next.
struct alignas(64) ThreadRange {
  int64_t begin = 0, end = 0, chunks = 1;
  std::atomic<int64_t> next = 1;

  template <class Body>
  void run(int64_t chunk, const Body& body) const {
    const int64_t length = end - begin;
    body(begin + length * chunk / chunks, begin + length * (chunk + 1) / chunks);
  }
};

/// Of several failures the lowest is reported, whatever the timing.
class Failure {
 public:
  void add(int64_t begin, std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (error_ && begin_ < begin) return;
    begin_ = begin;
    error_ = std::move(error);
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  int64_t begin_ = 0;
  std::exception_ptr error_;
};

}  // namespace

void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t threads = std::min<int64_t>(num_threads(), (count + grain - 1) / grain);
  if (threads <= 1 || omp_in_parallel()) {
    body(0, count);
    return;
  }
  // Enough that threads of unequal speed end together, few enough that a chunk is worth a call.
  constexpr int64_t kChunks = 16;
  std::vector<ThreadRange> ranges(static_cast<size_t>(threads));
  for (int64_t i = 0; i < threads; ++i) {
    ThreadRange& range = ranges[static_cast<size_t>(i)];
    range.begin = count * i / threads;
    range.end = count * (i + 1) / threads;
    range.chunks = std::clamp<int64_t>((range.end - range.begin) / grain, 1, kChunks);
  }
  Failure failure;
  const auto try_body = [&](int64_t begin, int64_t end) {
    try {
      body(begin, end);
    } catch (...) {
      failure.add(begin, std::current_exception());
    }
  };
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(threads))
  for (int64_t i = 0; i < threads; ++i) {
    ranges[static_cast<size_t>(i)].run(0, try_body);
    for (int64_t step = 0; step < threads; ++step) {
      ThreadRange& range = ranges[static_cast<size_t>((i + step) % threads)];
      for (int64_t chunk = range.next++; chunk < range.chunks; chunk = range.next++) {
        range.run(chunk, try_body);
      }
    }
  }
  failure.rethrow();
}

#else

int num_threads() { return 1; }

void set_num_threads(int threads) {
  require(threads >= 1, "threads", "{} threads asked for, at least 1 is needed", threads);
}

void parallel_for(int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  if (count > 0) body(0, count);
}

#endif

}  // namespace bitdial
