#include "bitdial/kernels/amx/portable/reduction.h"

#include <algorithm>
#include <cstring>

#include "bitdial/core/parallel.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/amx/portable/image_rows.h"

namespace bitdial::kernels::amx {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -ceil_div(-a, b); }

constexpr int64_t kMaxRunSteps = 256;

/// The input coordinate of tap `tap` at output 0.
int64_t tap_offset(const AxisShape& axis, int64_t tap) { return tap * axis.dilation - axis.padding; }

/// The outputs [first, last) whose tap lies inside the image.
struct ValidRange {
  int64_t first = 0, last = 0;
};
ValidRange valid_outputs(const AxisShape& axis, int64_t tap) {
  const int64_t offset = tap_offset(axis, tap);
  const int64_t first = std::max<int64_t>(0, ceil_div(std::max<int64_t>(-offset, 0), axis.stride));
  const int64_t last = std::min(axis.out, floor_div(axis.in - 1 - offset, axis.stride) + 1);
  return {first, std::max(first, last)};
}

void add_split(const uint8_t* a, const uint8_t* b, int64_t steps, const BlockGeometry& g,
               std::vector<Run>& runs) {
  for (; steps > 0; steps -= kMaxRunSteps, a += kMaxRunSteps * g.a_step, b += kMaxRunSteps * g.b_step) {
    runs.push_back({a, b, std::min(steps, kMaxRunSteps)});
  }
}

}  // namespace

// ---- 64 images at one pixel ----

ImageReduction::ImageReduction(const GradientProblem& p, int64_t first_image, int64_t images,
                               Workspace& memory)
    : v_(vertical(p.shape)),
      h_(horizontal(p.shape)),
      image_blocks_(ceil_div(images, 64)),
      depth_tiles_(ceil_div(p.depth(), 16)),
      column_tiles_(ceil_div(p.columns(), 16)) {
  // A block of 32 may read one tile behind the last.
  x_plane_ = (image_blocks_ * v_.in * h_.in * depth_tiles_ + 1) * kTileBytes;
  dy_plane_ = (image_blocks_ * v_.out * h_.out * column_tiles_ + 1) * kTileBytes;
  x_ = memory.take<uint8_t>(x_plane_ * planes_of(p.x.type).count);
  dy_ = memory.take<uint8_t>(dy_plane_ * planes_of(p.dy.type).count);
  pack_x(p, first_image, images);
  pack_dy(p, first_image, images);
}

namespace {

/// Packs image rows [blocks of 64 images][height] of `width` pixels with `channels` codes each; `source(n, h,
/// w)` is a pixel. Whole pixels that fill their tiles are transposed a row at a time.
template <class Source>
void pack_images(CodeType type, TileKind kind, int64_t blocks, int64_t last_image, int64_t height,
                 int64_t width, int64_t channels, bool dense, uint8_t* tiles, int64_t plane,
                 const Source& source) {
  const int64_t pixel_bytes = ceil_div(channels, 16) * kTileBytes;
  const bool whole_rows = dense && channels % 16 == 0;
  const PhaseScope phase(Phase::kPack);
  parallel_for(blocks * height, 1, [&](int64_t begin, int64_t end) {
    RowTransposer transposer(type, kind);
    RowPointers rows;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = i / height;
      const int64_t h = i % height;
      for (int64_t w = 0; w < (whole_rows ? 1 : width); ++w) {
        for (int64_t n = 0; n < 64; ++n) {
          const int64_t image = block * 64 + n;
          rows[static_cast<size_t>(n)] = image < last_image ? source(image, h, w) : nullptr;
        }
        transposer.transpose(rows, whole_rows ? width * channels : channels,
                             tiles + (i * width + w) * pixel_bytes, plane);
      }
    }
  });
}

}  // namespace

void ImageReduction::pack_x(const GradientProblem& p, int64_t first_image, int64_t images) {
  pack_images(p.x.type, TileKind::kAcross, image_blocks_, images, v_.in, h_.in, p.depth(),
              p.shape.groups == 1, x_, x_plane_,
              [&](int64_t n, int64_t h, int64_t w) { return p.x_row(first_image + n, h, w); });
}

void ImageReduction::pack_dy(const GradientProblem& p, int64_t first_image, int64_t images) {
  pack_images(p.dy.type, TileKind::kAlong, image_blocks_, images, v_.out, h_.out, p.columns(),
              p.shape.groups == 1, dy_, dy_plane_,
              [&](int64_t n, int64_t h, int64_t w) { return p.dy_row(first_image + n, h, w); });
}

int64_t ImageReduction::lines() const { return image_blocks_ * v_.out; }
int64_t ImageReduction::line_steps() const { return h_.out; }
int64_t ImageReduction::line_bytes() const {
  return (h_.in * v_.stride * depth_tiles_ + h_.out * column_tiles_) * kTileBytes;
}

BlockGeometry ImageReduction::geometry() const {
  return {.a_row = 64,
          .a_row_tile = kTileBytes,
          .a_step = h_.stride * depth_tiles_ * kTileBytes,
          .b_step = column_tiles_ * kTileBytes,
          .a_plane = x_plane_,
          .b_plane = dy_plane_};
}

void ImageReduction::add_runs(int64_t line, int64_t r, int64_t s, int64_t depth_block, int64_t column_block,
                              std::vector<Run>& runs) const {
  const int64_t block = line / v_.out;
  const int64_t oh = line % v_.out;
  const int64_t ih = oh * v_.stride + tap_offset(v_, r);
  const auto [first, last] = valid_outputs(h_, s);
  if (ih < 0 || ih >= v_.in || first >= last) return;
  const int64_t iw = first * h_.stride + tap_offset(h_, s);
  const uint8_t* a = x_ + (((block * v_.in + ih) * h_.in + iw) * depth_tiles_ + 2 * depth_block) * kTileBytes;
  const uint8_t* b = dy_ + ((line * h_.out + first) * column_tiles_ + 2 * column_block) * kTileBytes;
  add_split(a, b, last - first, geometry(), runs);
}

// ---- 64 neighbours along a fused axis ----

FusedReduction::PhasedAxis::PhasedAxis(const AxisShape& axis, bool fused) : size(axis.out) {
  if (!fused) return;
  stride = axis.stride;
  int64_t behind = 0;
  for (int64_t tap = 0; tap < axis.kernel; ++tap) {
    const int64_t first = floor_div(tap_offset(axis, tap), stride);
    before = std::max(before, -first);
    behind = std::max(behind, first);
  }
  size = before + axis.out + behind;
  for (int64_t tap = 0; tap < axis.kernel; ++tap) {
    const int64_t first = floor_div(tap_offset(axis, tap), stride);
    const int64_t phase = tap_offset(axis, tap) - first * stride;
    auto known = std::ranges::find(phases, phase);
    if (known == phases.end()) known = phases.insert(known, phase);
    phase_of.push_back(known - phases.begin());
    start.push_back(first + before);
  }
}

FusedReduction::FusedReduction(const GradientProblem& p, int64_t first_image, int64_t images,
                               Workspace& memory)
    : v_(vertical(p.shape)),
      h_(horizontal(p.shape)),
      all_rows_(v_.out > 1 && h_.out * images < 256),
      rows_(v_, all_rows_),
      cols_(h_, true),
      images_(images),
      depth_tiles_(ceil_div(p.depth(), 16)),
      column_tiles_(ceil_div(p.columns(), 16)) {
  const int64_t reduced = all_rows_ ? v_.out * cols_.size * images_ : h_.out * images_;
  chunks_ = ceil_div(reduced, 64);
  x_positions_ = (all_rows_ ? rows_.size : 1) * cols_.size * images_;
  // The last tap starts here, and reads whole chunks.
  const int64_t last_start =
      ((all_rows_ ? rows_.size - v_.out : 0) * cols_.size + cols_.size - h_.out) * images_;
  x_row_ = (ceil_div(std::max(x_positions_, last_start + chunks_ * 64), 64) | 1) * 64;
  const int64_t x_lines = (all_rows_ ? static_cast<int64_t>(rows_.phases.size()) : v_.in) *
                          static_cast<int64_t>(cols_.phases.size());
  x_plane_ = (x_lines * depth_tiles_ + 1) * 16 * x_row_ + kReadSlack;
  x_plane_ = ceil_div(x_plane_, 64) * 64;
  dy_plane_ = (lines() * chunks_ * column_tiles_ + 1) * kTileBytes;
  x_ = memory.take<uint8_t>(x_plane_ * planes_of(p.x.type).count);
  dy_ = memory.take<uint8_t>(dy_plane_ * planes_of(p.dy.type).count);
  pack_x(p, first_image);
  pack_dy(p, first_image);
}

void FusedReduction::pack_x(const GradientProblem& p, int64_t first_image) {
  const PhaseScope phase(Phase::kPack);
  const int planes = planes_of(p.x.type).count;
  const auto col_phases = static_cast<int64_t>(cols_.phases.size());
  const int64_t x_lines = (all_rows_ ? static_cast<int64_t>(rows_.phases.size()) : v_.in) * col_phases;
  const int64_t chunks = ceil_div(x_positions_, 64);
  const int64_t tile_plane = depth_tiles_ * kTileBytes;
  parallel_for(x_lines * chunks, 8, [&](int64_t begin, int64_t end) {
    RowTransposer transposer(p.x.type, TileKind::kAcross);
    Workspace memory;
    uint8_t* const tiles = memory.take<uint8_t>(tile_plane * planes);
    RowPointers pointers;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t line = i / chunks;
      const int64_t first = i % chunks * 64;
      const int64_t column_phase = cols_.phases[static_cast<size_t>(line % col_phases)];
      for (int64_t q = 0; q < 64; ++q) {
        const int64_t position = first + q;
        const int64_t n = position % images_;
        const int64_t w = (position / images_ % cols_.size - cols_.before) * cols_.stride + column_phase;
        int64_t h = line / col_phases;
        if (all_rows_) {
          h = (position / images_ / cols_.size - rows_.before) * rows_.stride +
              rows_.phases[static_cast<size_t>(h)];
        }
        const bool inside = position < x_positions_ && h >= 0 && h < v_.in && w >= 0 && w < h_.in;
        pointers[static_cast<size_t>(q)] = inside ? p.x_row(first_image + n, h, w) : nullptr;
      }
      transposer.transpose(pointers, p.depth(), tiles, tile_plane);
      uint8_t* const target = x_ + line * depth_tiles_ * 16 * x_row_ + first;
      for (int plane = 0; plane < planes; ++plane) {
        for (int64_t c = 0; c < depth_tiles_ * 16; ++c) {
          std::memcpy(target + plane * x_plane_ + c * x_row_, tiles + plane * tile_plane + c * 64, 64);
        }
      }
    }
  });
}

void FusedReduction::pack_dy(const GradientProblem& p, int64_t first_image) {
  const PhaseScope phase(Phase::kPack);
  const int64_t width = all_rows_ ? cols_.size : h_.out;
  parallel_for(lines() * chunks_, 8, [&](int64_t begin, int64_t end) {
    RowTransposer transposer(p.dy.type, TileKind::kAlong);
    RowPointers pointers;
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t q = 0; q < 64; ++q) {
        const int64_t position = i % chunks_ * 64 + q;
        const int64_t n = position % images_;
        const int64_t ow = position / images_ % width;
        const int64_t row = position / images_ / width;
        const int64_t oh = all_rows_ ? row : i / chunks_;
        const bool inside = ow < h_.out && (all_rows_ ? row < v_.out : row == 0);
        pointers[static_cast<size_t>(q)] = inside ? p.dy_row(first_image + n, oh, ow) : nullptr;
      }
      transposer.transpose(pointers, p.columns(), dy_ + i * column_tiles_ * kTileBytes, dy_plane_);
    }
  });
}

int64_t FusedReduction::lines() const { return all_rows_ ? 1 : v_.out; }
int64_t FusedReduction::line_steps() const { return chunks_; }
int64_t FusedReduction::line_bytes() const {
  return static_cast<int64_t>(cols_.phases.size()) * depth_tiles_ * 16 * x_row_ +
         chunks_ * column_tiles_ * kTileBytes;
}

BlockGeometry FusedReduction::geometry() const {
  return {.a_row = x_row_,
          .a_row_tile = 16 * x_row_,
          .a_step = 64,
          .b_step = column_tiles_ * kTileBytes,
          .a_plane = x_plane_,
          .b_plane = dy_plane_};
}

void FusedReduction::add_runs(int64_t line, int64_t r, int64_t s, int64_t depth_block, int64_t column_block,
                              std::vector<Run>& runs) const {
  const auto tap_s = static_cast<size_t>(s);
  int64_t x_line = 0;
  int64_t start = cols_.start[tap_s];
  if (all_rows_) {
    x_line = rows_.phase_of[static_cast<size_t>(r)];
    start += rows_.start[static_cast<size_t>(r)] * cols_.size;
  } else {
    x_line = line * v_.stride + tap_offset(v_, r);
    if (x_line < 0 || x_line >= v_.in) return;
  }
  x_line = x_line * static_cast<int64_t>(cols_.phases.size()) + cols_.phase_of[tap_s];
  const uint8_t* a = x_ + (x_line * depth_tiles_ + 2 * depth_block) * 16 * x_row_ + start * images_;
  const uint8_t* b = dy_ + (line * chunks_ * column_tiles_ + 2 * column_block) * kTileBytes;
  add_split(a, b, chunks_, geometry(), runs);
}

}  // namespace bitdial::kernels::amx
