#pragma once

#include <cstdint>

namespace bitdial::kernels {

/// A bfloat16 number: the upper half of a float32.
struct BFloat16 {
  uint16_t bits = 0;
};

}  // namespace bitdial::kernels
