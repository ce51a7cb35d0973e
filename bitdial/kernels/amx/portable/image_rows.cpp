#include "bitdial/kernels/amx/portable/image_rows.h"

#include <algorithm>
#include <cstring>

#include "bitdial/kernels/amx/block.h"
#include "bitdial/kernels/amx/portable/tile_pack.h"
#include "bitdial/kernels/conv2d_kernels.h"

namespace bitdial::kernels::amx {

RowTransposer::RowTransposer(CodeType type, TileKind kind)
    : type_(type), kind_(kind), stage_(memory_.take<uint8_t>(2 * 64 * kStride)) {
  std::memset(stage_, 0, 2 * 64 * kStride);
}

void RowTransposer::transpose(const RowPointers& rows, int64_t channels, uint8_t* tiles, int64_t plane) {
  const int planes = planes_of(type_).count;
  uint8_t* const stage0 = stage_;
  uint8_t* const stage1 = stage0 + 64 * kStride;
  for (int64_t first = 0; first < channels; first += kStrip) {
    const int64_t count = std::min(kStrip, channels - first);
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto offset = static_cast<int64_t>(r) * kStride;
      if (rows[r] != nullptr) {
        split_codes(rows[r] + first * code_size(type_), type_, count, stage0 + offset, stage1 + offset);
        continue;
      }
      std::memset(stage0 + offset, 0, static_cast<size_t>(count));
      if (planes == 2) std::memset(stage1 + offset, 0, static_cast<size_t>(count));
    }
    for (int64_t c = 0; c < count; c += 16, tiles += kTileBytes) {
      for (int p = 0; p < planes; ++p) {
        const uint8_t* source = (p == 0 ? stage0 : stage1) + c;
        if (kind_ == TileKind::kAcross) {
          transpose_bytes(source, kStride, tiles + p * plane);
        } else {
          interleave_rows(source, kStride, tiles + p * plane);
        }
      }
    }
  }
}

}  // namespace bitdial::kernels::amx
