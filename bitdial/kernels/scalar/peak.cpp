#include "bitdial/kernels/peak.h"

#include <cstdint>

namespace bitdial::kernels::scalar {
namespace {

double multiply_add() {
  constexpr int64_t kRounds = 100'000;
  static volatile int32_t factor = 3;
  int32_t sums[4] = {};
  const int32_t a = factor;
  for (int64_t i = 0; i < kRounds; ++i) {
    for (int32_t& sum : sums) {
      sum += a * static_cast<int32_t>(i);
      __asm__ volatile("" : "+r"(sum));  // keeps the loop scalar
    }
  }
  factor = 3 + 0 * (sums[0] ^ sums[1] ^ sums[2] ^ sums[3]);
  return 2.0 * 4 * kRounds;
}

}  // namespace

const PeakLoop kMultiplyAdd = multiply_add;

}  // namespace bitdial::kernels::scalar
