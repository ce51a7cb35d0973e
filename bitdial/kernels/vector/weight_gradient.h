#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/vector/problems.h"
#include "bitdial/kernels/vector/tile.h"
#include "bitdial/kernels/vector/transpose.h"
#include "bitdial/kernels/workspace.h"

// WTGRAD: the reduction runs over images. x becomes [block of images][h][w][c][images], dy
// [panel][block][oh][ow] [images / 4][lanes][4]; 4 images of x are broadcast against a panel of output
// channels. A tap is only another pixel of x, so nothing is shifted, taps outside the image are skipped, and
// stride and dilation are index arithmetic.
namespace bitdial::kernels::vector {

template <class Isa>
class WeightGradient {
 public:
  explicit WeightGradient(const WeightGradientProblem& problem) : p_(problem) {}

  void run() {
    plan();
    run_tasks(image_blocks_ * p_.rows.in, [this](int64_t i) { pack_x_row(i / p_.rows.in, i % p_.rows.in); });
    run_tasks(image_blocks_ * p_.rows.out,
              [this](int64_t i) { pack_dy_row(i / p_.rows.out, i % p_.rows.out); });
    sum_taps();
    run_tasks(panel_count_ * parts_, [this](int64_t task) { run_part(task / parts_, task % parts_); });
    run_tasks(panel_count_ * taps_, [this](int64_t task) { finish(panels_[task / taps_], task % taps_); });
  }

 private:
  static constexpr int64_t kMaxLanes = int64_t{Isa::kMaxVectors} * Isa::kWidth;

  // ---- planning
  // -------------------------------------------------------------------------------------------------

  void plan() {
    x_split_ = unsigned_digits(p_.x.type);
    dy_split_ = signed_digits(p_.dy.type);
    pairs_ = int64_t{x_split_.count} * dy_split_.count;
    taps_ = static_cast<int64_t>(p_.rows.order.size() * p_.cols.order.size());
    image_blocks_ = (p_.batch + 63) / 64;
    quads_ = ((p_.batch + image_blocks_ - 1) / image_blocks_ + 3) / 4;
    images_ = 4 * quads_;
    pixels_ = image_blocks_ * p_.rows.out * p_.cols.out;
    panels_ = workspace_.take<PanelSpan>(panel_count<Isa>(p_.columns));
    panel_count_ = cut_panels<Isa>(p_.columns, panels_);
    padded_columns_ = panels_[panel_count_ - 1].begin + panels_[panel_count_ - 1].lanes;
    padded_channels_ = p_.channels + 32;  // tiles write whole rows
    zero_x_ = x_split_.zero + p_.x.params[0].zero_code;
    zero_dy_ = dy_split_.zero + p_.dy.params[0].zero_code;
    offsets_ = p_.x.params[0].offset != 0.0F || p_.dy.params[0].offset != 0.0F;
    needs_x_sums_ = zero_dy_ != 0 || offsets_;
    x_plane_ = image_blocks_ * p_.rows.in * p_.cols.in * p_.channels * images_;
    xt_ = workspace_.take<uint8_t>(x_plane_ * x_split_.count);
    dyt_ = workspace_.take<int8_t>(pixels_ * images_ * padded_columns_ * dy_split_.count);
    dy_sums_ = workspace_.take<int32_t>(dy_split_.count * pixels_ * padded_columns_);
    plan_visits();
  }

  /// A visit covers as many output pixels as keep their dy in the L2 cache while all taps and channels pass.
  void plan_visits() {
    constexpr int64_t kVisitBytes = 256 << 10;
    visit_ = std::clamp<int64_t>(kVisitBytes / (images_ * kMaxLanes), 1, kExactProducts / images_);
    const int64_t visits = (pixels_ + visit_ - 1) / visit_;
    const int64_t threads = num_threads();
    parts_ = panel_count_ >= 2 * threads ? 1 : std::min(visits, threads);
    visits_per_part_ = (visits + parts_ - 1) / parts_;
    parts_ = (visits + visits_per_part_ - 1) / visits_per_part_;
    sums_size_ = pairs_ * taps_ * padded_channels_;
    wide_ = pixels_ * images_ > kExactProducts;
    if (wide_) {
      wide_sums_ = workspace_.take<int64_t>(parts_ * sums_size_ * padded_columns_);
    } else {
      sums_ = workspace_.take<int32_t>(parts_ * sums_size_ * padded_columns_);
    }
  }

  // ---- layouts
  // --------------------------------------------------------------------------------------------------

  uint8_t* x_at(int digit, int64_t block, int64_t h, int64_t w) const {
    return xt_ + digit * x_plane_ + ((block * p_.rows.in + h) * p_.cols.in + w) * p_.channels * images_;
  }

  int8_t* panel_data(const PanelSpan& panel, int digit) const {
    return dyt_ + pixels_ * images_ * (dy_split_.count * panel.begin + digit * panel.lanes);
  }

  /// Missing images of the last block are zeros in both operands.
  void pack_x_row(int64_t block, int64_t h) {
    const bool dense = p_.x_column == p_.channels;  // then pixels and channels are one axis
    const int64_t columns = dense ? p_.cols.in * p_.channels : p_.channels;
    for (int64_t image = 0; image < images_; image += 16) {
      for (int64_t w = 0; w < (dense ? 1 : p_.cols.in); ++w) {
        const int64_t first = p_.x_first + h * p_.x_row + w * p_.x_column;
        for (int64_t c = 0; c < columns; c += kTransposeBytes) {
          pack_x_columns(block, image, first + c, std::min(kTransposeBytes, columns - c),
                         x_at(0, block, h, w) + c * images_ + image);
        }
      }
    }
  }

  /// Up to 16 images of up to kTransposeBytes neighbouring codes.
  void pack_x_columns(int64_t block, int64_t image, int64_t first, int64_t columns, uint8_t* target) const {
    alignas(64) uint8_t staged[2][16 * kTransposeBytes];
    const int64_t first_image = block * images_ + image;
    const int64_t real = std::min<int64_t>(16, p_.batch - first_image);
    const bool direct = x_split_.count == 1 && real == 16 && columns == kTransposeBytes;
    if (!direct) {
      std::memset(staged, 0, sizeof(staged));
      for (int64_t n = 0; n < real; ++n) {
        split_digits<Isa>(x_split_, p_.x.codes, first + (first_image + n) * p_.x_image, columns,
                          staged[0] + n * kTransposeBytes, 16 * kTransposeBytes);
      }
    }
    const uint8_t* codes = static_cast<const uint8_t*>(p_.x.codes) + first + first_image * p_.x_image;
    for (int d = 0; d < x_split_.count; ++d) {
      const uint8_t* rows[16];
      for (int n = 0; n < 16; ++n)
        rows[n] = direct ? codes + n * p_.x_image : staged[d] + n * kTransposeBytes;
      const uint8_t flip = direct ? x_split_.flip[0] : uint8_t{0};
      uint8_t* plane = target + d * x_plane_;
      if (columns == kTransposeBytes && image + 16 <= images_) {
        transpose_16_rows(rows, flip, plane, images_);
        continue;
      }
      alignas(64) uint8_t transposed[kTransposeBytes * 16];
      transpose_16_rows(rows, flip, transposed, 16);
      const auto bytes = static_cast<size_t>(std::min<int64_t>(16, images_ - image));
      for (int64_t c = 0; c < columns; ++c) std::memcpy(plane + c * images_, transposed + c * 16, bytes);
    }
  }

  void pack_dy_row(int64_t block, int64_t oh) {
    constexpr int64_t kTogether = 4;  // quads of images at a time: 16 streams through memory
    Workspace workspace;
    auto* staged = workspace.take<uint8_t>(dy_split_.count * 4 * padded_columns_);
    const int64_t row = (block * p_.rows.out + oh) * p_.cols.out;
    for (int d = 0; d < dy_split_.count; ++d) {
      std::fill_n(dy_sums_ + (d * pixels_ + row) * padded_columns_, p_.cols.out * padded_columns_, 0);
    }
    for (int64_t begin = 0; begin < quads_; begin += kTogether) {
      for (int64_t ow = 0; ow < p_.cols.out; ++ow) {
        for (int64_t quad = begin; quad < std::min(begin + kTogether, quads_); ++quad) {
          const int64_t image = block * images_ + 4 * quad;
          pack_dy_quad(image, oh * p_.cols.out + ow, row + ow, quad, staged);
        }
      }
    }
  }

  void pack_dy_quad(int64_t image, int64_t in_image, int64_t pixel, int64_t quad, uint8_t* staged) const {
    const int64_t plane = 4 * padded_columns_;
    const int64_t stride = p_.rows.out * p_.cols.out * p_.dy_pixel;
    const int64_t first = p_.dy_first + image * stride + in_image * p_.dy_pixel;
    const bool direct = dy_split_.count == 1 && image + 4 <= p_.batch;
    if (!direct) {
      std::memset(staged, 0, static_cast<size_t>(dy_split_.count * plane));
      for (int64_t i = 0; i < std::min<int64_t>(4, p_.batch - image); ++i) {
        split_digits<Isa>(dy_split_, p_.dy.codes, first + i * stride, p_.columns,
                          staged + i * padded_columns_, plane);
      }
    }
    const uint8_t* codes = static_cast<const uint8_t*>(p_.dy.codes) + first;
    for (int d = 0; d < dy_split_.count; ++d) {
      const uint8_t* rows[4];
      for (int i = 0; i < 4; ++i)
        rows[i] = direct ? codes + i * stride : staged + d * plane + i * padded_columns_;
      for (int64_t i = 0; i < panel_count_; ++i) {
        pack_dy_panel(rows, direct ? dy_split_.flip[0] : uint8_t{0}, panels_[i], d, pixel, quad);
      }
    }
  }

  void pack_dy_panel(const uint8_t* const* rows, uint8_t flip, const PanelSpan& panel, int digit,
                     int64_t pixel, int64_t quad) const {
    constexpr uint8_t kOnes[4] = {1, 1, 1, 1};
    const typename Isa::Quad ones = Isa::broadcast(kOnes);
    const uint8_t* part[4];
    for (int i = 0; i < 4; ++i) part[i] = rows[i] + panel.begin;
    int8_t* target = panel_data(panel, digit) + (pixel * quads_ + quad) * panel.lanes * 4;
    interleave_4_rows(part, flip, panel.columns, target);
    std::memset(target + 4 * panel.columns, 0, static_cast<size_t>(4 * (panel.lanes - panel.columns)));
    int32_t* sums = dy_sums_ + (digit * pixels_ + pixel) * padded_columns_ + panel.begin;
    for (int64_t k = 0; k < panel.lanes; k += Isa::kWidth) {
      Isa::store(sums + k, Isa::dot(Isa::load(sums + k), ones, Isa::load_panel(target + 4 * k)));
    }
  }

  // ---- sums over the valid pixels of a tap
  // ----------------------------------------------------------------------

  struct Tap {
    int32_t row = 0, col = 0;
  };

  Tap tap_at(int64_t tap) const {
    const auto cols = static_cast<int64_t>(p_.cols.order.size());
    return {static_cast<int32_t>(tap / cols), static_cast<int32_t>(tap % cols)};
  }

  /// The input coordinate that tap t of output coordinate o reads, -1 outside.
  static int64_t input_of(const TapAxis& axis, int64_t o, int32_t t) {
    const TapSpan& span = axis.spans[static_cast<size_t>(o)];
    return t >= span.first && t < span.last ? span.input + (t - span.first) * axis.dilation : -1;
  }

  void sum_taps() {
    tap_dy_sums_ = workspace_.take<double>(taps_ * padded_columns_);
    tap_x_sums_ = workspace_.take<double>(taps_ * p_.channels);
    tap_counts_ = workspace_.take<int64_t>(taps_);
    if (needs_x_sums_) {
      x_sums_ = workspace_.take<double>(p_.rows.in * p_.cols.in * p_.channels);
      run_tasks(p_.rows.in, [this](int64_t h) { sum_x_row(h); });
    }
    run_tasks(taps_, [this](int64_t tap) { sum_tap(tap); });
  }

  void sum_x_row(int64_t h) {
    for (int64_t w = 0; w < p_.cols.in; ++w) {
      double* sums = x_sums_ + (h * p_.cols.in + w) * p_.channels;
      std::fill_n(sums, p_.channels, 0.0);
      for (int d = 0; d < x_split_.count; ++d) {
        for (int64_t block = 0; block < image_blocks_; ++block) {
          const uint8_t* x = x_at(d, block, h, w);
          for (int64_t c = 0; c < p_.channels; ++c) {
            int32_t sum = 0;
            for (int64_t n = 0; n < images_; ++n) sum += x[c * images_ + n];
            sums[c] += (d == 0 ? 1.0 : 256.0) * sum;
          }
        }
      }
    }
  }

  void sum_tap(int64_t index) {
    const Tap tap = tap_at(index);
    double* dy_sums = tap_dy_sums_ + index * padded_columns_;
    double* x_sums = tap_x_sums_ + index * p_.channels;
    std::fill_n(dy_sums, padded_columns_, 0.0);
    std::fill_n(x_sums, p_.channels, 0.0);
    int64_t count = 0;
    for (int64_t oh = 0; oh < p_.rows.out; ++oh) {
      const int64_t h = input_of(p_.rows, oh, tap.row);
      if (h < 0) continue;
      for (int64_t ow = 0; ow < p_.cols.out; ++ow) {
        const int64_t w = input_of(p_.cols, ow, tap.col);
        if (w < 0) continue;
        ++count;
        add_dy_sums(oh * p_.cols.out + ow, dy_sums);
        if (!needs_x_sums_) continue;
        const double* x = x_sums_ + (h * p_.cols.in + w) * p_.channels;
        for (int64_t c = 0; c < p_.channels; ++c) x_sums[c] += x[c];
      }
    }
    tap_counts_[index] = count * p_.batch;
  }

  void add_dy_sums(int64_t pixel, double* total) const {
    for (int64_t block = 0; block < image_blocks_; ++block) {
      for (int d = 0; d < dy_split_.count; ++d) {
        const int64_t at = d * pixels_ + block * p_.rows.out * p_.cols.out + pixel;
        const int32_t* sums = dy_sums_ + at * padded_columns_;
        const double weight = d == 0 ? 1.0 : 256.0;
        for (int64_t k = 0; k < padded_columns_; ++k) total[k] += weight * sums[k];
      }
    }
  }

  // ---- products
  // -------------------------------------------------------------------------------------------------

  /// Sums of [pair of digits][tap][channel] rows of a panel's lanes.
  int64_t sums_at(const PanelSpan& panel, int64_t part) const {
    return sums_size_ * (parts_ * panel.begin + part * panel.lanes);
  }

  void run_part(int64_t panel_index, int64_t part) {
    Workspace workspace;
    const PanelSpan& panel = panels_[panel_index];
    const int64_t size = sums_size_ * panel.lanes;
    int32_t* sums = wide_ ? workspace.take<int32_t>(size) : sums_ + sums_at(panel, part);
    int64_t* wide = wide_ ? wide_sums_ + sums_at(panel, part) : nullptr;
    if (wide_) std::fill_n(wide, size, 0);
    std::memset(sums, 0, static_cast<size_t>(size) * sizeof(int32_t));
    auto* segments = workspace.take<Segment>(visit_);
    const int64_t end = std::min(pixels_, (part + 1) * visits_per_part_ * visit_);
    int64_t pending = 0;
    for (int64_t begin = part * visits_per_part_ * visit_; begin < end; begin += visit_) {
      const int64_t last = std::min(begin + visit_, end);
      if (wide_ && pending + (last - begin) * images_ > kExactProducts) {
        flush(sums, wide, size);
        pending = 0;
      }
      pending += (last - begin) * images_;
      for (int64_t tap = 0; tap < taps_; ++tap) {
        const int64_t count = find_segments(tap_at(tap), begin, last, segments);
        if (count > 0) visit_tap(tap, panel, segments, count, sums);
      }
    }
    if (wide_) flush(sums, wide, size);
  }

  static void flush(int32_t* sums, int64_t* wide, int64_t size) {
    for (int64_t i = 0; i < size; ++i) wide[i] += sums[i];
    std::memset(sums, 0, static_cast<size_t>(size) * sizeof(int32_t));
  }

  /// The output pixels [begin, end) where a tap lies inside the image.
  int64_t find_segments(Tap tap, int64_t begin, int64_t end, Segment* segments) const {
    int64_t count = 0;
    for (int64_t p = begin; p < end;) {
      const int64_t ow = p % p_.cols.out;
      const int64_t oh = p / p_.cols.out % p_.rows.out;
      const int64_t block = p / p_.cols.out / p_.rows.out;
      const int64_t row_end = std::min(end, p - ow + p_.cols.out);
      const int64_t h = input_of(p_.rows, oh, tap.row);
      if (h >= 0) {
        for (int64_t i = p; i < row_end; ++i) {
          const int64_t w = input_of(p_.cols, ow + i - p, tap.col);
          if (w >= 0) segments[count++] = {x_at(0, block, h, w) - xt_, i * quads_, quads_};
        }
      }
      p = row_end;
    }
    return count;
  }

  void visit_tap(int64_t tap, const PanelSpan& panel, const Segment* segments, int64_t count,
                 int32_t* sums) const {
    for (int a = 0; a < x_split_.count; ++a) {
      for (int b = 0; b < dy_split_.count; ++b) {
        int32_t* rows = sums + ((a * dy_split_.count + b) * taps_ + tap) * padded_channels_ * panel.lanes;
        visit_channels(std::integral_constant<int, Isa::kMaxVectors>{}, xt_ + a * x_plane_,
                       panel_data(panel, b), panel.lanes, segments, count, rows);
      }
    }
  }

  template <int kVectors>
  void visit_channels(std::integral_constant<int, kVectors>, const uint8_t* x, const int8_t* dy,
                      int64_t lanes, const Segment* segments, int64_t count, int32_t* sums) const {
    if constexpr (kVectors > 1) {
      if (lanes != kVectors * Isa::kWidth) {
        visit_channels(std::integral_constant<int, kVectors - 1>{}, x, dy, lanes, segments, count, sums);
        return;
      }
    }
    constexpr int kFull = Isa::kRows[kVectors];
    constexpr int kMiddle = (2 * kFull + 2) / 3;
    constexpr int kSmall = (kFull + 2) / 3;
    for (int64_t c = 0; c < p_.channels; c += kFull) {
      const int64_t left = p_.channels - c;
      int32_t* rows = sums + c * lanes;
      if (left > kMiddle) {
        add_tile<kFull, kVectors>(x, c, dy, segments, count, rows);
      } else if (left > kSmall) {
        add_tile<kMiddle, kVectors>(x, c, dy, segments, count, rows);
      } else {
        add_tile<kSmall, kVectors>(x, c, dy, segments, count, rows);
      }
    }
  }

  template <int kRows, int kVectors>
  __attribute__((noinline)) void add_tile(const uint8_t* x, int64_t channel, const int8_t* dy,
                                          const Segment* segments, int64_t count, int32_t* total) const {
    const uint8_t* rows[kRows];
    for (int i = 0; i < kRows; ++i) rows[i] = x + std::min(channel + i, p_.channels - 1) * images_;
    typename Isa::Sum sums[kRows][kVectors];
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[i][j] = Isa::load(total + (i * kVectors + j) * Isa::kWidth);
    }
    multiply_tile<Isa, kRows, kVectors>(rows, dy, segments, count, sums);
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) Isa::store(total + (i * kVectors + j) * Isa::kWidth, sums[i][j]);
    }
  }

  // ---- results
  // --------------------------------------------------------------------------------------------------

  /// One tap of a panel: adds parts and digits, takes out zero points, scales, transposes to [k][tap][c].
  void finish(const PanelSpan& panel, int64_t tap) const {
    constexpr int64_t kChannels = 16;
    alignas(64) float values[kChannels * kMaxLanes];
    for (int64_t c = 0; c < p_.channels; c += kChannels) {
      const int64_t count = std::min(kChannels, p_.channels - c);
      for (int64_t i = 0; i < count; ++i) {
        if (wide_) {
          finish_channel<int64_t>(wide_sums_, panel, tap, c + i, values + i * kMaxLanes);
        } else {
          finish_channel<double>(sums_, panel, tap, c + i, values + i * kMaxLanes);
        }
      }
      for (int64_t k = 0; k < panel.columns; ++k) {
        float* target = p_.dw + ((panel.begin + k) * taps_ + tap) * p_.channels + c;
        for (int64_t i = 0; i < count; ++i) target[i] = values[i * kMaxLanes + k];
      }
    }
  }

  template <class Number, class Part>
  void finish_channel(const Part* all, const PanelSpan& panel, int64_t tap, int64_t channel,
                      float* values) const {
    alignas(64) Number total[kMaxLanes] = {};
    for (int64_t part = 0; part < parts_; ++part) {
      for (int a = 0; a < x_split_.count; ++a) {
        for (int b = 0; b < dy_split_.count; ++b) {
          const int64_t row = ((a * dy_split_.count + b) * taps_ + tap) * padded_channels_ + channel;
          const Part* sums = all + sums_at(panel, part) + row * panel.lanes;
          const auto weight = static_cast<Number>(1 << (8 * (a + b)));
          for (int64_t k = 0; k < panel.lanes; ++k) total[k] += weight * static_cast<Number>(sums[k]);
        }
      }
    }
    const double* dy_sums = tap_dy_sums_ + tap * padded_columns_ + panel.begin;
    const auto count = static_cast<Number>(tap_counts_[tap]);
    const auto zero_x = static_cast<Number>(zero_x_);
    const auto zero_dy = static_cast<Number>(zero_dy_);
    const auto sum_x = static_cast<Number>(tap_x_sums_[tap * p_.channels + channel]);
    const Number constant = count * zero_x * zero_dy - zero_dy * sum_x;
    for (int64_t k = 0; k < panel.lanes; ++k) total[k] += constant - zero_x * static_cast<Number>(dy_sums[k]);
    const QuantParams& px = p_.x.params[0];
    const QuantParams& pdy = p_.dy.params[0];
    if (offsets_) {
      const auto own_x = static_cast<double>(sum_x - count * zero_x);
      for (int64_t k = 0; k < panel.lanes; ++k) {
        const auto own_dy = static_cast<double>(static_cast<Number>(dy_sums[k]) - count * zero_dy);
        values[k] =
            with_offsets(px, pdy, static_cast<double>(total[k]), own_x, own_dy, static_cast<double>(count));
      }
      return;
    }
    const float scale = px.scale * pdy.scale;
    for (int64_t k = 0; k < panel.lanes; ++k) values[k] = static_cast<float>(total[k]) * scale;
  }

  const WeightGradientProblem& p_;
  Workspace workspace_;
  DigitSplit x_split_, dy_split_;
  bool wide_ = false, offsets_ = false, needs_x_sums_ = false;
  int64_t pairs_ = 1, taps_ = 1, image_blocks_ = 1, images_ = 4, quads_ = 1, pixels_ = 1;
  int64_t panel_count_ = 1, padded_columns_ = 0, padded_channels_ = 0, x_plane_ = 0;
  int64_t zero_x_ = 0, zero_dy_ = 0, visit_ = 1, visits_per_part_ = 1, parts_ = 1, sums_size_ = 0;
  PanelSpan* panels_ = nullptr;
  uint8_t* xt_ = nullptr;
  int8_t* dyt_ = nullptr;
  int32_t* dy_sums_ = nullptr;
  double* x_sums_ = nullptr;
  double* tap_dy_sums_ = nullptr;
  double* tap_x_sums_ = nullptr;
  int64_t* tap_counts_ = nullptr;
  int32_t* sums_ = nullptr;
  int64_t* wide_sums_ = nullptr;
};

}  // namespace bitdial::kernels::vector
