#include "bitdial/kernels/amx/portable/rows.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "bitdial/core/parallel.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/amx/block.h"
#include "bitdial/kernels/amx/portable/tile_pack.h"

namespace bitdial::kernels::amx {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t tap_count(const std::vector<Axis>& axes) {
  int64_t taps = 0;
  for (const Axis& axis : axes) taps += static_cast<int64_t>(axis.taps.size());
  return taps;
}

/// A stride of an even number of cache lines puts the rows of a tile into few sets of the L1 cache, one more
/// than a large power of two into few of the L2 cache.
int64_t good_image_stride(int64_t bytes) {
  const int64_t lines = ceil_div(bytes, 64);
  if (lines < 128) return (lines | 1) * 64;
  return (ceil_div(lines - 17, 32) * 32 + 17) * 64;
}

bool is_good_image_stride(int64_t bytes) {
  const int64_t lines = bytes / 64;
  return bytes % 64 == 0 && lines % 2 == 1 &&
         (lines < 128 || !std::has_single_bit(static_cast<uint64_t>(lines - 1)));
}

/// Tile rows in use, of those that run.
double share_used(int64_t used, int64_t run) {
  return static_cast<double>(used) / static_cast<double>(ceil_div(run, 16) * 16);
}

void plan_halo(const Product& p, RowsPlan& plan) {
  int64_t right = 0;
  int64_t positions = 0;
  for (const Axis& axis : p.cols) {
    positions = std::max(positions, axis.positions);
    if (axis.taps.empty()) continue;
    plan.left = std::max(plan.left, -axis.taps.front().offset);
    right = std::max(right, axis.input(axis.positions - 1, axis.taps.back()) - (p.in_width - 1));
  }
  const int64_t step = p.cols.front().in_step;
  plan.width = std::max(plan.left + p.in_width + right, positions * step);
  plan.width = ceil_div(plan.width, step) * step;  // every image starts at a whole tile row
}

bool can_read_in_place(const Product& p, const RowsPlan& plan) {
  return !plan.halo() && planes_of(p.a.type).count == 1 && p.depth == p.in_channels && p.depth % 64 == 0 &&
         p.batch % 16 == 0 && is_good_image_stride(p.in_height * p.in_width * p.depth);
}

}  // namespace

int64_t steps_by_tap(const Product& p) {
  return tap_count(p.rows) * tap_count(p.cols) * ceil_div(p.depth, 64);
}

int64_t steps_by_run(const Product& p) {
  int64_t steps = 0;
  for (const Axis& axis : p.cols) {
    for (size_t i = 0, first = 0; i < axis.taps.size(); ++i) {
      const bool last = i + 1 == axis.taps.size() || axis.taps[i + 1].offset != axis.taps[i].offset + 1;
      if (!last) continue;
      steps += ceil_div(static_cast<int64_t>(i + 1 - first) * p.depth, 64);
      first = i + 1;
    }
  }
  return steps * tap_count(p.rows);
}

RowsPlan plan_rows(const Product& p) {
  RowsPlan plan;
  const bool forward = p.b_depth == 1 && p.rows.size() == 1 && p.cols.size() == 1 && p.rows[0].out_step == 1;
  const int64_t taps = tap_count(p.rows) * tap_count(p.cols);
  plan.gather = forward && taps > 1 && p.depth <= 8 && 2 * ceil_div(taps * p.depth, 64) <= steps_by_run(p);
  plan.fuse_taps = !plan.gather && steps_by_run(p) < steps_by_tap(p);
  if (plan.gather) {
    const Product flat = gathered(p);
    plan.width = flat.in_width;
  } else {
    plan_halo(p, plan);
  }
  const int64_t positions = p.cols.front().positions;
  const int64_t pitch = plan.width / (plan.gather ? 1 : p.cols.front().in_step);
  const double images = share_used(p.batch, p.batch);
  const double pixels = share_used(p.batch * positions, p.batch * pitch);
  plan.tile_rows = images >= 0.85 * pixels ? TileRows::kImages : TileRows::kPixels;
  if (!plan.gather && !plan.halo()) {
    plan.left = 0;
    plan.width = p.in_width;
    plan.copy = !can_read_in_place(p, plan);
  }
  return plan;
}

Product gathered(const Product& p) {
  Product flat = p;
  const int64_t taps = tap_count(p.rows) * tap_count(p.cols);
  flat.depth = taps * p.depth;  // weights [K][R][S][C] are contiguous over all of it
  flat.in_height = p.out_height;
  flat.in_width = p.out_width;
  flat.in_channels = flat.depth;
  flat.first_depth = 0;
  flat.kernel_width = 1;
  flat.rows = {Axis{.positions = p.out_height, .in_size = p.out_height, .taps = {{0, 0}}}};
  flat.cols = {Axis{.positions = p.out_width, .in_size = p.out_width, .taps = {{0, 0}}}};
  return flat;
}

PackedRows::PackedRows(const Product& p, const RowsPlan& plan, Workspace& memory) {
  const int64_t height = plan.gather ? p.out_height : p.in_height;
  rows_.pixel = plan.gather ? ceil_div(gathered(p).depth, 4) * 4 : p.depth;
  int64_t rows_read_past_the_end = 32 * rows_.pixel * p.cols.front().in_step;
  if (plan.tile_rows == TileRows::kImages) {
    rows_.row = plan.width * rows_.pixel;
    rows_.image = height * rows_.row;
    if (plan.copy) rows_.image = good_image_stride(rows_.image);
    rows_read_past_the_end = (ceil_div(p.batch, 16) * 16 - p.batch) * rows_.image;
  } else {
    rows_.image = plan.width * rows_.pixel;
    rows_.row = p.batch * rows_.image;
  }
  if (!plan.copy) {
    rows_.data = code_address(p.a, p.first_depth);
    return;
  }
  const int64_t bytes = std::max(p.batch * rows_.image, height * rows_.row) + rows_read_past_the_end;
  rows_.plane = ceil_div(bytes + kReadSlack, 64) * 64;
  buffer_ = memory.take<uint8_t>(rows_.plane * planes_of(p.a.type).count);
  rows_.data = buffer_;
  if (plan.gather) {
    gather_taps(p, plan);
  } else {
    copy_rows(p, plan);
  }
}

void PackedRows::copy_rows(const Product& p, const RowsPlan& plan) {
  const PhaseScope phase(Phase::kPack);
  const int planes = planes_of(p.a.type).count;
  uint8_t* const base = buffer_;
  const int64_t right = plan.width - plan.left - p.in_width;
  parallel_for(p.batch * p.in_height, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / p.in_height;
      const int64_t h = i % p.in_height;
      uint8_t* const row = base + n * rows_.image + h * rows_.row;
      for (int plane = 0; plane < planes; ++plane) {
        uint8_t* const start = row + plane * rows_.plane;
        std::memset(start, 0, static_cast<size_t>(plan.left * rows_.pixel));
        std::memset(start + (plan.left + p.in_width) * rows_.pixel, 0,
                    static_cast<size_t>(right * rows_.pixel));
      }
      uint8_t* target = row + plan.left * rows_.pixel;
      const bool whole_pixels = p.depth == p.in_channels;
      const int64_t pieces = whole_pixels ? 1 : p.in_width;
      const int64_t codes = whole_pixels ? p.in_width * p.depth : p.depth;
      for (int64_t w = 0; w < pieces; ++w, target += codes) {
        split_codes(code_address(p.a, p.a_index(n, h, w)), p.a.type, codes, target, target + rows_.plane);
      }
    }
  });
}

void PackedRows::gather_taps(const Product& p, const RowsPlan&) {
  const PhaseScope phase(Phase::kPack);
  const int planes = planes_of(p.a.type).count;
  uint8_t* const base = buffer_;
  const Axis& rows = p.rows.front();
  const Axis& cols = p.cols.front();
  parallel_for(p.batch * p.out_height, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / p.out_height;
      const int64_t oh = i % p.out_height;
      for (int64_t ow = 0; ow < p.out_width; ++ow) {
        uint8_t* target = base + n * rows_.image + oh * rows_.row + ow * rows_.pixel;
        for (const AxisTap& r : rows.taps) {
          const int64_t h = rows.input(oh, r);
          for (const AxisTap& s : cols.taps) {
            const int64_t w = cols.input(ow, s);
            if (rows.inside(h) && cols.inside(w)) {
              split_codes(code_address(p.a, p.a_index(n, h, w)), p.a.type, p.depth, target,
                          target + rows_.plane);
            } else {
              for (int plane = 0; plane < planes; ++plane) {
                std::memset(target + plane * rows_.plane, 0, static_cast<size_t>(p.depth));
              }
            }
            target += p.depth;
          }
        }
      }
    }
  });
}

}  // namespace bitdial::kernels::amx
