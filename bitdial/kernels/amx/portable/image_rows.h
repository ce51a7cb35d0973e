#pragma once

#include <array>
#include <cstdint>

#include "bitdial/kernels/amx/portable/product.h"
#include "bitdial/kernels/workspace.h"

/// Transposition of 64 rows of channels (of 64 images at one pixel, or of 64 neighbours along the fused axis
/// (width, image)), so that the weight gradient can reduce over them.
namespace bitdial::kernels::amx {

/// Where each of the 64 rows starts; null: a row of zeros.
using RowPointers = std::array<const uint8_t*, 64>;

enum class TileKind : uint8_t {
  kAcross,  ///< operand A: [channels / 16][16 channels][64 rows]
  kAlong,   ///< operand B: [channels / 16][16 groups of 4 rows][16 channels][4]
};

class RowTransposer {
 public:
  RowTransposer(CodeType type, TileKind kind);

  /// Tiles of `channels` codes of each row to `tiles` (+ `plane` for the second plane). Channels behind the
  /// last one of a tile are unspecified.
  void transpose(const RowPointers& rows, int64_t channels, uint8_t* tiles, int64_t plane);

 private:
  static constexpr int64_t kStrip = 256;           ///< codes of a row that are staged at once
  static constexpr int64_t kStride = kStrip + 64;  ///< not a power of two: the rows spread over the L1 cache
  CodeType type_;
  TileKind kind_;
  Workspace memory_;
  uint8_t* stage_;
};

}  // namespace bitdial::kernels::amx
