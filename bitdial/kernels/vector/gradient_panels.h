#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "bitdial/kernels/vector/problems.h"
#include "bitdial/kernels/vector/tile.h"
#include "bitdial/kernels/vector/transpose.h"
#include "bitdial/kernels/workspace.h"

namespace bitdial::kernels::vector {

/// dY of a weight gradient as signed digits: [panel][digit][block of images][oh][ow][images / 4][lanes][4],
/// missing images and columns zero; behind them [digit][block][oh][ow][padded columns] sums over the images.
/// It is packed by the weight gradient itself or, while the codes are made, by whoever makes them
/// (kernels/gradient_packing.h).
template <class Isa>
class GradientPanels {
 public:
  GradientPanels(const WeightGradientProblem& problem, Workspace& workspace)
      : p_(problem),
        split_(signed_digits(problem.dy.type)),
        blocks_(ImageBlocks::of(problem.batch)),
        quads_(blocks_.images / 4),
        pixels_(blocks_.count * problem.rows.out * problem.cols.out),
        spans_(workspace.take<PanelSpan>(panel_count<Isa>(problem.columns))),
        count_(cut_panels<Isa>(problem.columns, spans_)),
        padded_columns_(spans_[count_ - 1].begin + spans_[count_ - 1].lanes) {}

  int64_t count() const { return count_; }
  int64_t padded_columns() const { return padded_columns_; }
  /// Of all blocks of images.
  int64_t pixels() const { return pixels_; }
  const PanelSpan& span(int64_t panel) const { return spans_[panel]; }
  const DigitSplit& split() const { return split_; }

  int64_t bytes() const {
    return digit_bytes() + split_.count * pixels_ * padded_columns_ * static_cast<int64_t>(sizeof(int32_t));
  }

  const int8_t* data(const void* packed, const PanelSpan& panel, int digit) const {
    return static_cast<const int8_t*>(packed) + place(panel, digit);
  }

  /// Per column the sum over the images of a pixel.
  const int32_t* sums(const void* packed, int digit, int64_t pixel) const {
    const auto* all = reinterpret_cast<const int32_t*>(static_cast<const char*>(packed) + digit_bytes());
    return all + (digit * pixels_ + pixel) * padded_columns_;
  }

  void pack(const GradientPart& part, void* packed) const {
    Workspace workspace;
    auto* staged = workspace.take<uint8_t>(split_.count * 4 * padded_columns_);
    auto* digits = static_cast<int8_t*>(packed);
    // Pixels of narrow tensors go several at a time: each cache line is read once.
    const bool dense =
        count_ == 1 && p_.dy_pixel == p_.columns && p_.columns == padded_columns_ && 64 % p_.columns == 0;
    const int64_t step = dense ? 64 / p_.dy_pixel : 1;
    const int64_t first_pixel = part.block * p_.rows.out * p_.cols.out;
    for (int64_t in_image = part.first_pixel; in_image < part.last_pixel; in_image += step) {
      const int64_t count = std::min(step, part.last_pixel - in_image);
      for (int64_t quad = part.first_quad; quad < part.last_quad; ++quad) {
        const int64_t image = part.block * blocks_.images + 4 * quad;
        if (dense && image + 4 <= p_.batch) {
          pack_dense(image, in_image, count, first_pixel + in_image, quad, digits);
        } else {
          for (int64_t i = in_image; i < in_image + count; ++i) {
            pack_quad(image, i, first_pixel + i, quad, staged, digits);
          }
        }
      }
    }
  }

  /// The sums of a part's pixels, all of whose images are packed.
  void sum(const GradientPart& part, void* packed) const {
    constexpr uint8_t kOnes[4] = {1, 1, 1, 1};
    const typename Isa::Quad ones = Isa::broadcast(kOnes);
    const int64_t first_pixel = part.block * p_.rows.out * p_.cols.out;
    for (int d = 0; d < split_.count; ++d) {
      for (int64_t i = 0; i < count_; ++i) {
        const PanelSpan& panel = spans_[i];
        for (int64_t pixel = first_pixel + part.first_pixel; pixel < first_pixel + part.last_pixel; ++pixel) {
          const int8_t* digits = data(packed, panel, d) + pixel * quads_ * panel.lanes * 4;
          auto* to = const_cast<int32_t*>(sums(packed, d, pixel)) + panel.begin;
          for (int64_t k = 0; k < panel.lanes; k += Isa::kWidth) {
            typename Isa::Sum sum = Isa::zero();
            for (int64_t quad = 0; quad < quads_; ++quad) {
              sum = Isa::dot(sum, ones, Isa::load_panel(digits + (quad * panel.lanes + k) * 4));
            }
            Isa::store(to + k, sum);
          }
        }
      }
    }
  }

 private:
  int64_t digit_bytes() const {
    return (pixels_ * blocks_.images * padded_columns_ * split_.count + 63) / 64 * 64;
  }

  int64_t place(const PanelSpan& panel, int digit) const {
    return pixels_ * blocks_.images * (split_.count * panel.begin + digit * panel.lanes);
  }

  /// One panel without padding: columns of neighbouring pixels are neighbours in memory.
  void pack_dense(int64_t image, int64_t in_image, int64_t count, int64_t pixel, int64_t quad,
                  int8_t* packed) const {
    alignas(64) uint8_t digits[2][4 * 64];
    alignas(64) int8_t interleaved[4 * 64];
    const int64_t columns = count * p_.dy_pixel;
    const int64_t stride = p_.rows.out * p_.cols.out * p_.dy_pixel;
    const int64_t first = p_.dy_first + image * stride + in_image * p_.dy_pixel;
    const bool direct = split_.count == 1;
    for (int64_t n = 0; !direct && n < 4; ++n) {
      split_digits<Isa>(split_, p_.dy.codes, first + n * stride, columns, digits[0] + n * 64, 4 * 64);
    }
    const uint8_t* codes = static_cast<const uint8_t*>(p_.dy.codes) + first;
    const uint8_t flip = direct ? split_.flip[0] : uint8_t{0};
    constexpr int64_t kPiece = 4 * Isa::kWidth;
    for (int d = 0; d < split_.count; ++d) {
      const uint8_t* rows[4];
      for (int n = 0; n < 4; ++n) rows[n] = direct ? codes + n * stride : digits[d] + n * 64;
      int8_t* target = packed + place(spans_[0], d) + (pixel * quads_ + quad) * p_.dy_pixel * 4;
      if (columns == 64 && count == 1) {
        interleave_4_rows(rows, flip, 64, target);
        continue;
      }
      interleave_4_rows(rows, flip, columns, interleaved);
      for (int64_t i = 0; i < count; ++i) {
        int8_t* pixel_target = target + i * quads_ * p_.dy_pixel * 4;
        for (int64_t j = 0; j < 4 * p_.dy_pixel; j += kPiece) {
          std::memcpy(pixel_target + j, interleaved + i * p_.dy_pixel * 4 + j, kPiece);
        }
      }
    }
  }

  void pack_quad(int64_t image, int64_t in_image, int64_t pixel, int64_t quad, uint8_t* staged,
                 int8_t* packed) const {
    const int64_t plane = 4 * padded_columns_;
    const int64_t stride = p_.rows.out * p_.cols.out * p_.dy_pixel;
    const int64_t first = p_.dy_first + image * stride + in_image * p_.dy_pixel;
    const bool direct = split_.count == 1 && image + 4 <= p_.batch;
    if (!direct) {
      const bool whole = image + 4 <= p_.batch && p_.columns == padded_columns_;
      if (!whole) std::memset(staged, 0, static_cast<size_t>(split_.count * plane));
      for (int64_t i = 0; i < std::min<int64_t>(4, p_.batch - image); ++i) {
        split_digits<Isa>(split_, p_.dy.codes, first + i * stride, p_.columns, staged + i * padded_columns_,
                          plane);
      }
    }
    const uint8_t flip = direct ? split_.flip[0] : uint8_t{0};
    const uint8_t* codes = static_cast<const uint8_t*>(p_.dy.codes) + first;
    for (int d = 0; d < split_.count; ++d) {
      for (int64_t i = 0; i < count_; ++i) {
        const PanelSpan& panel = spans_[i];
        const uint8_t* rows[4];
        for (int n = 0; n < 4; ++n) {
          rows[n] = panel.begin + (direct ? codes + n * stride : staged + d * plane + n * padded_columns_);
        }
        int8_t* target = packed + place(panel, d) + (pixel * quads_ + quad) * panel.lanes * 4;
        interleave_4_rows(rows, flip, panel.columns, target);
        if (panel.columns == panel.lanes) continue;
        std::memset(target + 4 * panel.columns, 0, static_cast<size_t>(4 * (panel.lanes - panel.columns)));
      }
    }
  }

  const WeightGradientProblem& p_;
  DigitSplit split_;
  ImageBlocks blocks_;
  int64_t quads_, pixels_;
  PanelSpan* spans_;
  int64_t count_, padded_columns_;
};

}  // namespace bitdial::kernels::vector
