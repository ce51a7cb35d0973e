#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

/// HardwareTile (tile.h) in plain C++, so that the AMX kernels are tested bit-exactly on every machine. It
/// also refuses what faults on hardware: tiles used without a configuration.
namespace bitdial::kernels::amx {
namespace {

struct TileFile {
  bool configured = false;
  alignas(64) uint8_t bytes[8][16][64] = {};
};

inline thread_local TileFile tile_file;

struct TwinTile {
  static void configure() { tile_file = TileFile{.configured = true}; }
  static void release() { tile_file.configured = false; }

  template <int kTile>
  static void zero() {
    std::memset(tile<kTile>(), 0, 1024);
  }

  template <int kTile>
  static void load(const void* source, int64_t stride) {
    for (int row = 0; row < 16; ++row) {
      std::memcpy(tile<kTile>() + row * 64, static_cast<const uint8_t*>(source) + row * stride, 64);
    }
  }

  template <int kTile>
  static void store(void* target, int64_t stride) {
    for (int row = 0; row < 16; ++row) {
      std::memcpy(static_cast<uint8_t*>(target) + row * stride, tile<kTile>() + row * 64, 64);
    }
  }

  template <int kSum, int kA, int kB, bool kSignedA, bool kSignedB>
  static void dot() {
    int32_t a[16][64];
    int32_t b[64][16];
    uint32_t sum[16][16];  // wraps like the instruction
    for (int m = 0; m < 16; ++m) {
      for (int i = 0; i < 64; ++i) a[m][i] = widen<kSignedA>(tile<kA>()[m * 64 + i]);
    }
    for (int i = 0; i < 64; ++i) {
      for (int n = 0; n < 16; ++n) b[i][n] = widen<kSignedB>(tile<kB>()[i / 4 * 64 + n * 4 + i % 4]);
    }
    std::memcpy(sum, tile<kSum>(), sizeof sum);
    for (int m = 0; m < 16; ++m) {
      for (int i = 0; i < 64; ++i) {
        for (int n = 0; n < 16; ++n) sum[m][n] += static_cast<uint32_t>(a[m][i] * b[i][n]);
      }
    }
    std::memcpy(tile<kSum>(), sum, sizeof sum);
  }

 private:
  template <int kTile>
  static uint8_t* tile() {
    if (!tile_file.configured) throw std::logic_error("[amx] a tile is used before its configuration");
    return tile_file.bytes[kTile][0];
  }

  template <bool kSigned>
  static int32_t widen(uint8_t byte) {
    return kSigned ? static_cast<int8_t>(byte) : byte;
  }
};

}  // namespace
}  // namespace bitdial::kernels::amx
