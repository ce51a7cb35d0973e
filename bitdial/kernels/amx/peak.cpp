#include "bitdial/kernels/peak.h"

#if defined(__AMX_INT8__)
#include <immintrin.h>

#include <cstdint>

namespace bitdial::kernels::amx {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A constant object: GCC 12 drops the stores into a configuration on the stack.
const TileConfig kTiles;

/// 32 x 32 sums, 64 products a step; two tiles of either operand are loaded for every four dot products.
double tdpbssd() {
  constexpr int64_t kRounds = 2000;
  constexpr int64_t kSteps = 4;
  alignas(64) static int8_t rows[kSteps * 2 * 1024];
  alignas(64) static int8_t panel[kSteps * 2 * 1024];
  _tile_loadconfig(&kTiles);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t round = 0; round < kRounds; ++round) {
    for (int64_t s = 0; s < kSteps; ++s) {
      _tile_loadd(4, rows + s * 2048, 64);
      _tile_loadd(6, panel + s * 2048, 64);
      _tile_loadd(7, panel + s * 2048 + 1024, 64);
      _tile_loadd(5, rows + s * 2048 + 1024, 64);
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_release();
  return 2.0 * kRounds * kSteps * 4 * 16 * 16 * 64;
}

}  // namespace

const PeakLoop kTdpbssd = tdpbssd;

}  // namespace bitdial::kernels::amx

#else
namespace bitdial::kernels::amx {
const PeakLoop kTdpbssd = nullptr;
}
#endif
