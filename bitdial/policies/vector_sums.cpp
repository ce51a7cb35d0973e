#include "bitdial/policies/vector_sums.h"

#include <array>
#include <cmath>
#include <numeric>

#include "bitdial/core/error.h"

namespace bitdial::policies {
namespace {

// Interleaved sums, which a compiler may keep in vectors.
constexpr size_t kLanes = 16;
template <class T>
using Lanes = std::array<T, kLanes>;

// add(lane, value) for every element.
template <class Add>
void for_lanes(std::span<const float> x, const Add& add) {
  size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) add(k, x[i + k]);
  }
  for (; i < x.size(); ++i) add(i % kLanes, x[i]);
}

}  // namespace

double squared_norm(std::span<const float> x) {
  Lanes<double> sums{};
  for_lanes(x, [&](size_t lane, float one) {
    const auto value = static_cast<double>(one);
    sums[lane] += value * value;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

Magnitude magnitude(std::span<const float> x) {
  Lanes<double> sums{};
  Lanes<int64_t> zeros{};
  for_lanes(x, [&](size_t lane, float one) {
    sums[lane] += static_cast<double>(std::fabs(one));
    zeros[lane] += one == 0.0F ? 1 : 0;
  });
  return {std::accumulate(sums.begin(), sums.end(), 0.0),
          std::accumulate(zeros.begin(), zeros.end(), int64_t{0})};
}

void add_to(std::span<float> sum, std::span<const float> x, float factor) {
  require(sum.size() == x.size(), "policies", "a sum of {} elements and {} to add", sum.size(), x.size());
  for (size_t i = 0; i < x.size(); ++i) sum[i] += factor * x[i];
}

}  // namespace bitdial::policies
