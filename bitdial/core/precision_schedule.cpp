#include "bitdial/core/precision_schedule.h"

#include <cmath>
#include <numbers>

#include "bitdial/core/error.h"

namespace bitdial {

int cyclic_bits(int64_t t, int64_t iterations, int64_t cycles, int minimum, int maximum) {
  require(t >= 0, "schedule", "iterations count from 0, got {}", t);
  require(cycles >= 1 && cycles <= iterations, "schedule",
          "{} iterations cannot hold {} cycles: between 1 and {} can", iterations, cycles, iterations);
  require(minimum >= 2 && minimum <= maximum && maximum <= 32, "schedule",
          "word lengths cycle within 2 .. 32, got {} .. {}", minimum, maximum);
  const int64_t period = iterations / cycles;
  const double tau = static_cast<double>(t % period) / static_cast<double>(period);
  // In the published order and without fused multiply-add: in the middle of a ramp from 3 to 8 this is
  // exactly 5.5, which rounds to the even 6.
  const double bits =
      minimum + 0.5 * (maximum - minimum) * (1 + std::cos(std::numbers::pi * tau + std::numbers::pi));
  return static_cast<int>(std::nearbyint(bits));
}

void BitSchedule::append(BitStretch stretch) {
  require(stretch.iterations >= 0, "schedule", "a stretch of {} iterations", stretch.iterations);
  for (const int bits : {stretch.forward, stretch.gradient})
    require(bits >= 2 && bits <= 32, "schedule", "word lengths lie in 2 .. 32, got {}", bits);
  if (stretch.iterations == 0) return;
  if (!stretches_.empty() && stretches_.back().forward == stretch.forward &&
      stretches_.back().gradient == stretch.gradient) {
    stretches_.back().iterations += stretch.iterations;
  } else {
    stretches_.push_back(stretch);
  }
}

int64_t BitSchedule::iterations() const {
  int64_t sum = 0;
  for (const BitStretch& stretch : stretches_) sum += stretch.iterations;
  return sum;
}

BitStretch BitSchedule::at(int64_t t) const {
  require(!stretches_.empty() && t >= 0, "schedule", "no precision for iteration {} of {}", t, iterations());
  for (const BitStretch& stretch : stretches_) {
    if (t < stretch.iterations) return stretch;
    t -= stretch.iterations;
  }
  return stretches_.back();
}

BitSchedule BitSchedule::constant(int64_t iterations, int forward, int gradient) {
  BitSchedule schedule;
  schedule.append({iterations, forward, gradient});
  return schedule;
}

BitSchedule BitSchedule::cyclic(int64_t iterations, int64_t cycles, int minimum, int maximum, int gradient) {
  BitSchedule schedule;
  for (int64_t t = 0; t < iterations; ++t)
    schedule.append({1, cyclic_bits(t, iterations, cycles, minimum, maximum), gradient});
  return schedule;
}

}  // namespace bitdial
