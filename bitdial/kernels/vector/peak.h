#pragma once

#include <cstdint>

// The reference loop of a dot-product instruction, in the shape of a convolution's tile: few rows broadcast
// against the vectors of a panel, both from the L1 cache. `Isa` provides Sum, kVectors, kRows, kMacs
// (products of one instruction), kPanelBytes (of one vector), zero, load_panel, broadcast, dot.
namespace bitdial::kernels::vector {

template <class Isa>
double run_peak_loop() {
  constexpr int64_t kRounds = 200;
  constexpr int64_t kSteps = 32;
  alignas(64) static int8_t panel[kSteps * Isa::kVectors * Isa::kPanelBytes];
  alignas(64) static uint8_t rows[Isa::kRows][kSteps * 4];
  typename Isa::Sum sums[Isa::kRows][Isa::kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < Isa::kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Isa::kVectors; ++j) sums[i][j] = Isa::zero();
  }
  for (int64_t round = 0; round < kRounds; ++round) {
    __asm__ volatile("" ::: "memory");
    for (int64_t s = 0; s < kSteps; ++s) {
      decltype(Isa::load_panel(panel)) lanes[Isa::kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < Isa::kVectors; ++j) {
        lanes[j] = Isa::load_panel(panel + (s * Isa::kVectors + j) * Isa::kPanelBytes);
      }
#pragma GCC unroll 16
      for (int i = 0; i < Isa::kRows; ++i) {
        const auto quad = Isa::broadcast(rows[i] + 4 * s);
#pragma GCC unroll 4
        for (int j = 0; j < Isa::kVectors; ++j) sums[i][j] = Isa::dot(sums[i][j], quad, lanes[j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Isa::kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Isa::kVectors; ++j) __asm__ volatile("" ::"v"(sums[i][j]));
  }
  return 2.0 * kRounds * kSteps * Isa::kRows * Isa::kVectors * Isa::kMacs;
}

}  // namespace bitdial::kernels::vector
