#pragma once

#include <functional>

#include "bitdial/kernels/reference_loop.h"

namespace bitdial::cost {

struct Timing {
  double seconds = 0.0;
  bool is_certain = false;  ///< enough repetitions ran on uncontended cores
};

struct StopwatchOptions {
  int repetitions = 7;         ///< on uncontended cores, that the median is taken from
  double patience = 40.0;      ///< after the time of so many repetitions the fastest has to do,
  double least_seconds = 0.1;  ///< but not before
};

/// Times pieces of work on a machine that others may use, by the rule of kernels/reference_loop.h:
/// repetitions beside which the reference loop is slow do not count.
class Stopwatch {
 public:
  explicit Stopwatch(const StopwatchOptions& options = {});

  /// Runs `work` once to warm up, then until the options are met.
  Timing time(const std::function<void()>& work);

 private:
  StopwatchOptions options_;
  kernels::ReferenceLoop reference_;
};

}  // namespace bitdial::cost
