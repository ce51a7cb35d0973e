#include "bitdial/core/parallel.h"

#include <algorithm>
#include <exception>
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

void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  const int64_t ranges = std::min<int64_t>(num_threads(), (count + grain - 1) / std::max<int64_t>(grain, 1));
  if (ranges <= 1 || omp_in_parallel()) {
    body(0, count);
    return;
  }
  // One slot per range: with several failures the one of the lowest range is reported, whatever the timing.
  std::vector<std::exception_ptr> failures(static_cast<size_t>(ranges));
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(ranges))
  for (int64_t range = 0; range < ranges; ++range) {
    try {
      body(count * range / ranges, count * (range + 1) / ranges);
    } catch (...) {
      failures[static_cast<size_t>(range)] = std::current_exception();
    }
  }
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
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
