#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/vector/depthwise_problem.h"
#include "bitdial/kernels/vector/depthwise_rows.h"
#include "bitdial/kernels/vector/tile.h"
#include "bitdial/kernels/vector/transpose.h"
#include "bitdial/kernels/workspace.h"

// Depth-wise WTGRAD of 3x3 kernels. Lanes are channels; the four products of a lane are four images at one
// pixel, so that a tap is only another pixel of x. Rows of x pass through a ring of four; padding is x's
// zero point.
namespace bitdial::kernels::vector {

template <class Isa>
class DepthwiseGradientKernel {
 public:
  explicit DepthwiseGradientKernel(const DepthwiseGradient& problem)
      : p_(problem),
        s_(problem.shape),
        split_(unsigned_digits(problem.x.type)),
        zero_(static_cast<int32_t>(split_.zero + problem.x.params[0].zero_code)),
        columns_((s_.out_width() - 1) * s_.stride_width + 3) {}

  void run() {
    const int64_t blocks = (s_.groups + kDepthwiseBlock - 1) / kDepthwiseBlock;
    const int64_t quads = (s_.batch + 3) / 4;
    const int64_t parts = std::clamp<int64_t>(2 * num_threads() / blocks, 1, quads);
    auto* totals = workspace_.take<int64_t>(parts * kSums * s_.groups);
    run_tasks(blocks * parts, [&](int64_t task) {
      const Block block = block_at(task / parts);
      const int64_t part = task % parts;
      add_part(block, quads * part / parts, quads * (part + 1) / parts,
               totals + kSums * (parts * block.first + part * block.channels));
    });
    for (int64_t i = 0; i < blocks; ++i)
      finish(block_at(i), totals + kSums * parts * block_at(i).first, parts);
  }

 private:
  static constexpr int64_t kSums = 10;  // nine taps and the sum of dy

  struct Block {
    int64_t first = 0, channels = 0;
  };
  Block block_at(int64_t index) const {
    const int64_t first = index * kDepthwiseBlock;
    return {first, std::min(kDepthwiseBlock, s_.groups - first)};
  }

  struct Buffers {
    uint8_t* ring = nullptr;  ///< four rows of x and one of padding
    int8_t* dy = nullptr;
    const uint8_t *x_padding = nullptr, *dy_padding = nullptr;
    int64_t row_bytes = 0;
    int32_t* sums = nullptr;  ///< [kSums][channel]
  };

  /// Images [4 * first, 4 * last); totals [kSums][channel].
  void add_part(const Block& block, int64_t first, int64_t last, int64_t* totals) const {
    Workspace workspace;
    Buffers b;
    b.row_bytes = columns_ * block.channels * 4;
    b.ring = workspace.take<uint8_t>(5 * b.row_bytes);
    std::memset(b.ring + 4 * b.row_bytes, zero_, static_cast<size_t>(b.row_bytes));
    b.dy = workspace.take<int8_t>(s_.out_width() * block.channels * 4);
    auto* padding = workspace.take<uint8_t>(2 * kDepthwiseBlock);
    std::memset(padding, zero_ ^ split_.flip[0], kDepthwiseBlock);
    std::memset(padding + kDepthwiseBlock, 0, kDepthwiseBlock);
    b.x_padding = padding;
    b.dy_padding = padding + kDepthwiseBlock;
    b.sums = workspace.take<int32_t>(kSums * block.channels);
    std::fill_n(b.sums, kSums * block.channels, 0);
    std::fill_n(totals, kSums * block.channels, 0);
    int64_t pending = 0;  // products of a lane
    for (int64_t quad = first; quad < last; ++quad) {
      int64_t next = 0;  // row of x to interleave
      for (int64_t oh = 0; oh < s_.out_height(); ++oh) {
        if (pending + 4 * s_.out_width() > kExactProducts) {
          flush(block, b.sums, totals);
          pending = 0;
        }
        add_row(block, 4 * quad, oh, next, b);
        pending += 4 * s_.out_width();
      }
    }
    flush(block, b.sums, totals);
  }

  static void flush(const Block& block, int32_t* sums, int64_t* totals) {
    for (int64_t i = 0; i < kSums * block.channels; ++i) totals[i] += sums[i];
    std::fill_n(sums, kSums * block.channels, 0);
  }

  void add_row(const Block& block, int64_t image, int64_t oh, int64_t& next, const Buffers& b) const {
    const uint8_t* rows[3];
    for (int64_t r = 0; r < 3; ++r) {
      const int64_t h = oh * s_.stride_height - s_.padding_height + r;
      const bool inside = h >= 0 && h < s_.in_height;
      for (; inside && next <= h; ++next) interleave_x(block, image, next, b);
      rows[r] = b.ring + (inside ? h % 4 : 4) * b.row_bytes;
    }
    interleave_dy(block, image, oh, b);
    for (int64_t c = 0; c < block.channels; c += Isa::kWidth) add_lanes(block, rows, c, b);
  }

  /// [column, from -padding on][channel][4 images]
  void interleave_x(const Block& block, int64_t image, int64_t h, const Buffers& b) const {
    const int64_t stride = s_.in_height * s_.in_width * s_.groups;
    const uint8_t* row =
        static_cast<const uint8_t*>(p_.x.codes) + block.first + image * stride + h * s_.in_width * s_.groups;
    uint8_t* target = b.ring + h % 4 * b.row_bytes;
    for (int64_t i = 0; i < columns_; ++i) {
      const int64_t w = i - s_.padding_width;
      const bool inside = w >= 0 && w < s_.in_width;
      interleave(row + (inside ? w : 0) * s_.groups, stride, inside ? s_.batch - image : 0, b.x_padding,
                 split_.flip[0], block.channels, reinterpret_cast<int8_t*>(target + i * block.channels * 4));
    }
  }

  void interleave_dy(const Block& block, int64_t image, int64_t oh, const Buffers& b) const {
    const int64_t stride = s_.out_height() * s_.out_width() * s_.groups;
    const uint8_t* row = static_cast<const uint8_t*>(p_.dy.codes) + block.first + image * stride +
                         oh * s_.out_width() * s_.groups;
    for (int64_t i = 0; i < s_.out_width(); ++i) {
      interleave(row + i * s_.groups, stride, s_.batch - image, b.dy_padding, 0, block.channels,
                 b.dy + i * block.channels * 4);
    }
  }

  /// The pixel of four images, of which `real` exist.
  static void interleave(const uint8_t* pixel, int64_t stride, int64_t real, const uint8_t* padding,
                         uint8_t flip, int64_t channels, int8_t* target) {
    const uint8_t* pixels[4];
    for (int64_t i = 0; i < 4; ++i) pixels[i] = i < real ? pixel + i * stride : padding;
    interleave_4_rows(pixels, flip, channels, target);
  }

  __attribute__((noinline)) void add_lanes(const Block& block, const uint8_t* const* rows, int64_t channel,
                                           const Buffers& b) const {
    constexpr uint8_t kOnes[4] = {1, 1, 1, 1};
    const typename Isa::Quad ones = Isa::broadcast(kOnes);
    const int64_t pixel = block.channels * 4;
    typename Isa::Sum sums[kSums];
#pragma GCC unroll 10
    for (int i = 0; i < kSums; ++i) sums[i] = Isa::load(b.sums + i * block.channels + channel);
    const uint8_t* x[3] = {rows[0] + 4 * channel, rows[1] + 4 * channel, rows[2] + 4 * channel};
    const int8_t* dy = b.dy + 4 * channel;
    for (int64_t ow = 0; ow < s_.out_width(); ++ow, dy += pixel) {
      const typename Isa::Panel gradient = Isa::load_panel(dy);
#pragma GCC unroll 3
      for (int r = 0; r < 3; ++r) {
#pragma GCC unroll 3
        for (int q = 0; q < 3; ++q) {
          sums[3 * r + q] = Isa::dot(sums[3 * r + q], Isa::load_quads(x[r] + q * pixel), gradient);
        }
        x[r] += s_.stride_width * pixel;
      }
      sums[9] = Isa::dot(sums[9], ones, gradient);
    }
#pragma GCC unroll 10
    for (int i = 0; i < kSums; ++i) Isa::store(b.sums + i * block.channels + channel, sums[i]);
  }

  void finish(const Block& block, const int64_t* totals, int64_t parts) const {
    const float scale = p_.x.params[0].scale * p_.dy.params[0].scale;
    for (int64_t c = 0; c < block.channels; ++c) {
      int64_t sums[kSums] = {};
      for (int64_t part = 0; part < parts; ++part) {
        for (int64_t i = 0; i < kSums; ++i) sums[i] += totals[(part * kSums + i) * block.channels + c];
      }
      for (int64_t i = 0; i < 9; ++i) {
        p_.dw[(block.first + c) * 9 + i] = static_cast<float>(sums[i] - zero_ * sums[9]) * scale;
      }
    }
  }

  const DepthwiseGradient& p_;
  const ConvShape& s_;
  Workspace workspace_;
  DigitSplit split_;
  int32_t zero_;
  int64_t columns_;  ///< of x under a row of outputs
};

}  // namespace bitdial::kernels::vector
