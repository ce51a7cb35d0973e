#pragma once

#include <cstdint>
#include <vector>

/// Precision schedules that depend on the iteration alone. Policies follow them, cost models charge them.
namespace bitdial {

/// The word length of CPT's saw-tooth (Fu et al. 2021, as their code computes it) at the 0-based iteration
/// `t` of `iterations`: `cycles` ramps of floor(iterations / cycles) iterations, each half a cosine from
/// `minimum` to `maximum`, then a jump back. What a division leaves over starts another ramp.
/// Throws Error unless 0 <= t, 1 <= cycles <= iterations and 2 <= minimum <= maximum <= 32.
int cyclic_bits(int64_t t, int64_t iterations, int64_t cycles, int minimum, int maximum);

/// Consecutive iterations of the same precision: `forward` is the word length of W and X, `gradient` of dY.
struct BitStretch {
  int64_t iterations = 0;
  int forward = 32;
  int gradient = 32;
  bool operator==(const BitStretch&) const = default;
};

/// The precision of a whole network over a training run, as runs of equal iterations.
class BitSchedule {
 public:
  /// Adds iterations at the end; neighbours of the same precision become one stretch. Throws Error unless
  /// iterations >= 0 and both word lengths lie in 2..32.
  void append(BitStretch stretch);

  const std::vector<BitStretch>& stretches() const { return stretches_; }
  int64_t iterations() const;
  /// The stretch that holds the 0-based iteration t; after the end the last one.
  /// Throws Error when the schedule is empty or t is negative.
  BitStretch at(int64_t t) const;

  bool operator==(const BitSchedule&) const = default;

  static BitSchedule constant(int64_t iterations, int forward, int gradient);
  /// CPT: forward bits cycle within minimum..maximum (cyclic_bits), gradient bits stay.
  static BitSchedule cyclic(int64_t iterations, int64_t cycles, int minimum, int maximum, int gradient);

 private:
  std::vector<BitStretch> stretches_;
};

}  // namespace bitdial
