#include "bitdial/policies/squared_norm.h"

#include <array>
#include <numeric>

namespace bitdial::policies {

double squared_norm(std::span<const float> x) {
  // Interleaved sums, which a compiler may keep in vectors.
  constexpr size_t kLanes = 16;
  std::array<double, kLanes> sums{};
  size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) {
      const auto value = static_cast<double>(x[i + k]);
      sums[k] += value * value;
    }
  }
  for (; i < x.size(); ++i) sums[i % kLanes] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace bitdial::policies
