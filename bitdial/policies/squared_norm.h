#pragma once

#include <span>

namespace bitdial::policies {

/// ||x||^2 in float64, over a fixed partition.
double squared_norm(std::span<const float> x);

}  // namespace bitdial::policies
