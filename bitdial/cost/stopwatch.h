#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "bitdial/kernels/reference_loop.h"

namespace bitdial::cost {

struct Timing {
  double seconds = 0.0;
  bool is_certain = false;  ///< enough repetitions ran on uncontended cores
};

struct StopwatchOptions {
  int repetitions = 7;         ///< on uncontended cores, that the median is taken from (slow work: 2)
  int patience = 15;           ///< gives up after so many repetitions,
  double least_seconds = 0.1;  ///< but not before
  bool cold = false;           ///< sweep the caches before each repetition
};

/// Times pieces of work on a machine that others may use, by the rule of kernels/reference_loop.h:
/// repetitions beside which the reference loop is slow do not count. Where too few remain, the work's time on
/// a core of one thread, divided by the number of threads, serves: others hardly change it, but how well the
/// threads share the work is not in it.
class Stopwatch {
 public:
  explicit Stopwatch(const StopwatchOptions& options = {});

  /// Runs `work` once to warm up, then until the options are met. After several pieces of work on contended
  /// cores it gives up sooner. Work that takes longer than `hopeless` seconds twice is not repeated: how much
  /// longer is of no interest.
  Timing time(const std::function<void()>& work, double hopeless = std::numeric_limits<double>::infinity());

 private:
  Timing beside_others(const std::function<void()>& work);
  /// Leaves nothing of the work's operands in the caches: in a training step most of them come from memory.
  void sweep_caches();

  StopwatchOptions options_;
  kernels::ReferenceLoop reference_;
  int contended_in_a_row_ = 0;
  std::vector<uint64_t> swept_;
};

}  // namespace bitdial::cost
