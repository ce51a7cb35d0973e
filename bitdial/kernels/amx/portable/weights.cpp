#include "bitdial/kernels/amx/portable/weights.h"

#include <algorithm>
#include <cstring>

#include "bitdial/core/parallel.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/amx/block.h"
#include "bitdial/kernels/amx/portable/tile_pack.h"

namespace bitdial::kernels::amx {
namespace {

int64_t total_steps(const Axis& rows, const std::vector<TapRun>& runs) {
  int64_t steps = 0;
  for (const TapRun& run : runs) steps += run.steps;
  return steps * static_cast<int64_t>(rows.taps.size());
}

/// The weights of one run for 32 columns, plane by plane: [column][depth] when the depth is contiguous in
/// memory, [depth][column] otherwise.
class Stage {
 public:
  Stage(const Product& product, int64_t max_steps)
      : by_column_(product.b_depth == 1),
        stride_(by_column_ ? max_steps * 64 + 64 : 32),
        plane_(by_column_ ? 32 * stride_ : max_steps * 64 * 32),
        planes_(planes_of(product.b.type).count),
        buffer_(memory_.take<uint8_t>(plane_ * planes_)) {}

  void fill(const Product& p, const AxisTap& row, const Axis& cols, const TapRun& run, int64_t first_column) {
    std::memset(buffer_, 0, static_cast<size_t>(plane_ * planes_));
    const int64_t columns = std::min<int64_t>(32, p.columns - first_column);
    uint8_t* target = buffer_;
    for (int64_t t = 0; t < run.taps; ++t) {
      const AxisTap& tap = cols.taps[static_cast<size_t>(run.first + t)];
      const uint8_t* source = code_address(p.b, p.b_index(first_column, row.kernel, tap.kernel));
      const int64_t code = code_address(p.b, 1) - code_address(p.b, 0);
      const int64_t pieces = by_column_ ? columns : p.depth;
      const int64_t piece = by_column_ ? p.depth : columns;
      const int64_t piece_stride = (by_column_ ? p.b_column : p.b_depth) * code;
      uint8_t* row_target = target;
      for (int64_t i = 0; i < pieces; ++i, source += piece_stride, row_target += stride_) {
        split_codes(source, p.b.type, piece, row_target, row_target + plane_);
      }
      target += by_column_ ? p.depth : p.depth * stride_;
    }
  }

  void write_tiles(int plane, int64_t steps, uint8_t* tiles) const {
    const uint8_t* source = buffer_ + plane * plane_;
    for (int64_t i = 0; i < steps; ++i, tiles += 2 * kTileBytes) {
      if (by_column_) {
        transpose_words(source + i * 64, stride_, tiles);
        transpose_words(source + i * 64 + 16 * stride_, stride_, tiles + kTileBytes);
      } else {
        interleave_rows(source + i * 64 * stride_, stride_, tiles);
        interleave_rows(source + i * 64 * stride_ + 16, stride_, tiles + kTileBytes);
      }
    }
  }

 private:
  bool by_column_;
  int64_t stride_, plane_;
  int planes_;
  Workspace memory_;
  uint8_t* buffer_;
};

}  // namespace

std::vector<TapRun> plan_runs(const Axis& axis, int64_t depth, bool fuse_taps) {
  std::vector<TapRun> runs;
  for (size_t i = 0; i < axis.taps.size(); ++i) {
    const bool follows = i > 0 && axis.taps[i].offset == axis.taps[i - 1].offset + 1;
    if (fuse_taps && follows) {
      ++runs.back().taps;
    } else {
      runs.push_back({.first = static_cast<int64_t>(i)});
    }
  }
  for (TapRun& run : runs) run.steps = (run.taps * depth + 63) / 64;
  return runs;
}

PackedWeights::PackedWeights(const Product& p, const Axis& rows, const Axis& cols,
                             const std::vector<TapRun>& runs, Workspace& memory)
    : block_stride_(total_steps(rows, runs) * 2 * kTileBytes),
      plane_((p.columns + 31) / 32 * block_stride_),
      buffer_(memory.take<uint8_t>(plane_ * planes_of(p.b.type).count)) {
  const PhaseScope phase(Phase::kPack);
  parallel_for((p.columns + 31) / 32, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) pack_block(p, rows, cols, runs, block);
  });
}

void PackedWeights::pack_block(const Product& p, const Axis& rows, const Axis& cols,
                               const std::vector<TapRun>& runs, int64_t block) const {
  int64_t longest = 0;
  for (const TapRun& run : runs) longest = std::max(longest, run.steps);
  Stage stage(p, longest);
  uint8_t* tiles = buffer_ + block * block_stride_;
  for (const AxisTap& row : rows.taps) {
    for (const TapRun& run : runs) {
      stage.fill(p, row, cols, run, block * 32);
      for (int plane = 0; plane < planes_of(p.b.type).count; ++plane) {
        stage.write_tiles(plane, run.steps, tiles + plane * plane_);
      }
      tiles += run.steps * 2 * kTileBytes;
    }
  }
}

}  // namespace bitdial::kernels::amx
