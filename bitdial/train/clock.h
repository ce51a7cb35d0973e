#pragma once

#include <chrono>

namespace bitdial::train {

using Clock = std::chrono::steady_clock;

/// Wall-clock seconds since `start`.
inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace bitdial::train
