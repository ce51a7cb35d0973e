#pragma once

#include <vector>

#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/peak.h"

/// How fast this machine is right now: the yardstick that timings on shared machines are kept or discarded by
/// (docs/performance.md).
namespace bitdial::kernels {

/// A repetition counts only when the reference loop beside it reached this share of its best.
inline constexpr double kUncontendedShare = 0.9;

/// The dot-product instruction of an instruction set with operands from the L1 cache, on every thread at
/// once.
class ReferenceLoop {
 public:
  /// `words`: the instruction for 16-bit operands. `cpu_time`: count only the calling thread's time on a
  /// core, which tells kernels apart on a busy machine, with one thread. Throws Error where the build has no
  /// such loop.
  explicit ReferenceLoop(Isa isa = active_isa(), bool words = false, bool cpu_time = false);

  /// Runs the loop for a fraction of a millisecond; operations per second.
  double run();
  /// Runs the loop until its speed is that of uncontended cores, but no longer than `patience` seconds; the
  /// last speed.
  double run_until_uncontended(double patience);
  double best() const { return best_; }
  bool is_uncontended(double speed) const { return speed >= kUncontendedShare * best_; }

 private:
  PeakLoop loop_;
  bool cpu_time_;
  double best_ = 0.0;
};

/// Seconds of a steady clock, or of the calling thread on a core.
double seconds_now(bool cpu_time);

/// The upper median; 0 without values.
double median(std::vector<double> values);

}  // namespace bitdial::kernels
