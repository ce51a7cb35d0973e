#include "bitdial/kernels/reference_loop.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <numeric>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"

namespace bitdial::kernels {
namespace {

PeakLoop peak_loop(Isa isa, bool words) {
  PeakLoop loop = nullptr;
  switch (isa) {
    case Isa::kScalar:
      loop = scalar::kMultiplyAdd;
      break;
    case Isa::kAvx2:
      loop = avx2::kVpmaddwd;
      break;
    case Isa::kAvxVnni:
      loop = words ? avxvnni::kVpdpwssd : avxvnni::kVpdpbusd;
      break;
    case Isa::kAvx512Vnni:
      loop = words ? avx512vnni::kVpdpwssd : avx512vnni::kVpdpbusd;
      break;
    case Isa::kAmx:
      loop = amx::kTdpbssd;
      break;
  }
  require(loop != nullptr, "reference loop", "no reference loop for {} in this build", to_string(isa));
  return loop;
}

}  // namespace

ReferenceLoop::ReferenceLoop(Isa isa, bool words, bool cpu_time)
    : loop_(peak_loop(isa, words)), cpu_time_(cpu_time) {}

double ReferenceLoop::run() {
  const int threads = num_threads();
  std::vector<double> operations(static_cast<size_t>(threads));
  const auto run_once = [&] {
    parallel_for(threads, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) operations[static_cast<size_t>(i)] = loop_();
    });
  };
  run_once();  // wakes threads that found nothing to do for a while
  const double begin = seconds_now(cpu_time_);
  run_once();
  const double seconds = seconds_now(cpu_time_) - begin;
  const double speed = std::accumulate(operations.begin(), operations.end(), 0.0) / seconds;
  best_ = std::max(best_, speed);
  return speed;
}

double ReferenceLoop::run_until_uncontended(double patience) {
  const double begin = seconds_now(false);
  double speed = run();
  while (!is_uncontended(speed) && seconds_now(false) - begin < patience) speed = run();
  return speed;
}

double seconds_now(bool cpu_time) {
  if (!cpu_time) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace bitdial::kernels
