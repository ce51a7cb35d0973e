#include "bitdial/cost/stopwatch.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace bitdial::cost {
namespace {

struct Repetition {
  double seconds = 0.0;
  double reference = 0.0;  // the slower of the loops before and after
};

}  // namespace

Stopwatch::Stopwatch(const StopwatchOptions& options) : options_(options) {
  for (int i = 0; i < 20; ++i) reference_.run();
}

Timing Stopwatch::time(const std::function<void()>& work) {
  const double start = kernels::seconds_now(false);
  work();
  std::vector<Repetition> all;
  double fastest = std::numeric_limits<double>::infinity();
  double before = reference_.run();
  while (true) {
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
    if (static_cast<int>(kept.size()) >= options_.repetitions) return {kernels::median(kept), true};
    fastest = std::min(fastest, end - begin);
    if (end - start > std::max(options_.least_seconds, options_.patience * fastest)) return {fastest, false};
  }
}

}  // namespace bitdial::cost
