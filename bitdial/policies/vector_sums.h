#pragma once

#include <cstdint>
#include <span>

namespace bitdial::policies {

/// ||x||^2 in float64, over a fixed partition.
double squared_norm(std::span<const float> x);

/// sum |x| in float64 over a fixed partition, and how many elements are zero.
struct Magnitude {
  double abs_sum = 0.0;
  int64_t zeros = 0;
};
Magnitude magnitude(std::span<const float> x);

/// sum += factor * x, element by element.
void add_to(std::span<float> sum, std::span<const float> x, float factor = 1.0F);

}  // namespace bitdial::policies
