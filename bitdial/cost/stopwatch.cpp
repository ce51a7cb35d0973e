#include "bitdial/cost/stopwatch.h"

#include <algorithm>
#include <limits>
#include <vector>

#if defined(__linux__)
#include <unistd.h>
#endif

#include "bitdial/core/parallel.h"
#include "bitdial/cost/work.h"

namespace bitdial::cost {
namespace {

constexpr int kContended = 3;  // pieces of work on contended cores, one after another
constexpr double kLittlePatience = 0.2;
constexpr int kAlone = 3;      // repetitions on one thread
constexpr double kSlow = 0.2;  // seconds; the median of two such repetitions is as steady
constexpr int kSlowRepetitions = 2;

/// Twice the last cache, within reason.
int64_t bytes_to_sweep() {
  int64_t cache = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
  return std::clamp<int64_t>(2 * cache, int64_t{64} << 20, int64_t{256} << 20);
}

struct Repetition {
  double seconds = 0.0;
  double reference = 0.0;  // the slower of the loops before and after
};

}  // namespace

Stopwatch::Stopwatch(const StopwatchOptions& options) : options_(options) {
  for (int i = 0; i < 20; ++i) reference_.run();
}

Timing Stopwatch::time(const std::function<void()>& work, double hopeless) {
  const double share = contended_in_a_row_ >= kContended ? kLittlePatience : 1.0;
  const double start = kernels::seconds_now(false);
  work();
  const double warm_up = kernels::seconds_now(false) - start;
  std::vector<Repetition> all;
  double fastest = std::numeric_limits<double>::infinity();
  double before = reference_.run();
  while (true) {
    sweep_caches();
    const double begin = kernels::seconds_now(false);
    work();
    const double end = kernels::seconds_now(false);
    const double after = reference_.run();
    all.push_back({end - begin, std::min(before, after)});
    before = after;

    std::vector<double> kept;
    for (const Repetition& one : all) {
      if (reference_.is_uncontended(one.reference)) kept.push_back(one.seconds);
    }
    fastest = std::min(fastest, end - begin);
    if (all.size() == 1 && std::min(warm_up, fastest) > hopeless) return {fastest, !kept.empty()};
    const int wanted = fastest > kSlow ? kSlowRepetitions : options_.repetitions;
    if (static_cast<int>(kept.size()) >= wanted) {
      contended_in_a_row_ = 0;
      return {kernels::median(kept), true};
    }
    const bool is_enough = static_cast<double>(all.size()) >= share * options_.patience;
    if (is_enough && end - start > share * options_.least_seconds) {
      ++contended_in_a_row_;
      return beside_others(work);
    }
  }
}

void Stopwatch::sweep_caches() {
  if (!options_.cold) return;
  if (swept_.empty()) swept_.resize(static_cast<size_t>(bytes_to_sweep()) / sizeof(uint64_t));
  parallel_for(static_cast<int64_t>(swept_.size()), 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += 8) ++swept_[static_cast<size_t>(i)];  // a word of each cache line
  });
}

Timing Stopwatch::beside_others(const std::function<void()>& work) {
  const int threads = num_threads();
  const OneThread alone;
  double fastest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kAlone && (i == 0 || fastest < kSlow); ++i) {
    sweep_caches();
    const double begin = kernels::seconds_now(true);
    work();
    fastest = std::min(fastest, kernels::seconds_now(true) - begin);
  }
  return {fastest / threads, false};
}

}  // namespace bitdial::cost
