#pragma once

#include <cstdint>

/// The eight AMX tile registers as the kernels use them: 16 rows of 64 bytes each. Include only from source
/// files of this folder (they are compiled with the AMX flags). tile_twin.h has the same interface in plain
/// C++.
///
/// Inline assembly instead of GCC 12's intrinsics, which do not say that a tile load reads memory (packing
/// twice into one buffer gives wrong sums) and that `ldtilecfg` reads all 64 bytes (a configuration on the
/// stack is silently dropped).
namespace bitdial::kernels::amx {
namespace {

struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr TileConfiguration kTileConfiguration;

struct HardwareTile {
  /// The configuration belongs to the thread, and other libraries of the process load their own: every kernel
  /// configures on entry and releases on exit.
  static void configure() { __asm__ volatile("ldtilecfg %0" : : "m"(kTileConfiguration)); }
  static void release() { __asm__ volatile("tilerelease" : : : "memory"); }

  template <int kTile>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }

  /// Row i from `source + i * stride`.
  template <int kTile>
  static void load(const void* source, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(source), "r"(stride), "i"(kTile) : "memory");
  }

  template <int kTile>
  static void store(void* target, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(target), "r"(stride), "i"(kTile) : "memory");
  }

  /// sum[m][n] += a[m][4 i + j] * b[i][4 n + j] over i < 16, j < 4, in int32 that wraps.
  template <int kSum, int kA, int kB, bool kSignedA, bool kSignedB>
  static void dot() {
    if constexpr (kSignedA && kSignedB) {
      __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
    } else if constexpr (kSignedA) {
      __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
    } else if constexpr (kSignedB) {
      __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
    } else {
      __asm__ volatile("tdpbuud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
    }
  }
};

}  // namespace
}  // namespace bitdial::kernels::amx
