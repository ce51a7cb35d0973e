#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "bitdial/core/parallel.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/vector/gradient_panels.h"
#include "bitdial/kernels/vector/problems.h"
#include "bitdial/kernels/vector/tile.h"
#include "bitdial/kernels/vector/transpose.h"
#include "bitdial/kernels/workspace.h"

// WTGRAD: the reduction runs over images. x becomes [block of images][h][w][c][images], dy GradientPanels; 4
// images of x are broadcast against a panel of output channels. A tap is only another pixel of x, so nothing
// is shifted, taps outside the image are skipped, and stride and dilation are index arithmetic.
namespace bitdial::kernels::vector {

template <class Isa>
class WeightGradient {
 public:
  explicit WeightGradient(const WeightGradientProblem& problem) : p_(problem), dy_(problem, workspace_) {}

  void run() {
    prepare();
    const int64_t tasks = parts_ * groups_;  // of a panel; one of the two is 1
    run_tasks(panel_count_ * tasks, [this, tasks](int64_t task) {
      run_part(task / tasks, task % tasks / groups_, group_at(task % groups_));
    });
    if (parts_ == 1) return;
    run_tasks(panel_count_ * taps_, [this](int64_t task) {
      const PanelSpan& panel = dy_.span(task / taps_);
      finish(panel, task % taps_, {0, p_.channels}, parts_of(panel));
    });
  }

 private:
  static constexpr int64_t kMaxLanes = int64_t{Isa::kMaxVectors} * Isa::kWidth;

  void prepare() {
    const PhaseScope phase(Phase::kPack);
    plan();
    packed_dy_ = p_.dy.packed;
    void* to_pack = packed_dy_ == nullptr ? workspace_.take<uint8_t>(dy_.bytes()) : nullptr;
    if (to_pack != nullptr) packed_dy_ = to_pack;
    const int64_t rows = p_.rows.in + (to_pack != nullptr ? p_.rows.out : 0);
    run_tasks(image_blocks_ * rows, [this, rows, to_pack](int64_t task) {
      const int64_t block = task / rows, row = task % rows, out = row - p_.rows.in;
      if (out < 0) {
        pack_x_row(block, row);
      } else {
        pack_dy_row(block, out, to_pack);
      }
    });
    sum_taps();
  }

  // ---- planning ----

  void plan() {
    x_split_ = unsigned_digits(p_.x.type);
    dy_split_ = dy_.split();
    pairs_ = int64_t{x_split_.count} * dy_split_.count;
    taps_ = static_cast<int64_t>(p_.rows.order.size() * p_.cols.order.size());
    const ImageBlocks blocks = ImageBlocks::of(p_.batch);
    image_blocks_ = blocks.count;
    images_ = blocks.images;
    quads_ = images_ / 4;
    pixels_ = dy_.pixels();
    panel_count_ = dy_.count();
    padded_columns_ = dy_.padded_columns();
    padded_channels_ = p_.channels + 32;  // tiles write whole rows
    zero_x_ = x_split_.zero + p_.x.params[0].zero_code;
    zero_dy_ = dy_split_.zero + p_.dy.params[0].zero_code;
    offsets_ = p_.x.params[0].offset != 0.0F || p_.dy.params[0].offset != 0.0F;
    needs_x_sums_ = zero_dy_ != 0 || offsets_;
    x_plane_ = image_blocks_ * p_.rows.in * p_.cols.in * p_.channels * images_;
    constexpr int64_t kMostRows = Isa::kRows[1];  // of a tile, which may reach past the last channel
    xt_ = workspace_.take<uint8_t>(x_plane_ * x_split_.count + kMostRows * images_);
    plan_visits();
  }

  /// Input channels [begin, end).
  struct ChannelSpan {
    int64_t begin = 0, end = 0;
  };

  ChannelSpan group_at(int64_t group) const {
    const auto border = [this](int64_t i) {  // whole vectors, as results are transposed
      return (p_.channels * i / groups_ + Isa::kWidth - 1) / Isa::kWidth * Isa::kWidth;
    };
    return {border(group), std::min(border(group + 1), p_.channels)};
  }

  /// A visit covers as many output pixels as keep their dy in a cache while all taps and channels pass.
  /// Threads need several tasks each, to end together: a panel is cut into groups of channels, each of which
  /// reads all of dy, or into parts of the pixels, whose sums are added up afterwards.
  void plan_visits() {
    const int64_t pixel_bytes = wide_bytes<Isa>(images_ * dy_.span(0).lanes);
    visit_ = std::clamp<int64_t>(Isa::kVisitBytes / pixel_bytes, 1, kExactProducts / images_);
    const int64_t visits = (pixels_ + visit_ - 1) / visit_;
    const int64_t threads = num_threads();
    const int64_t tasks = threads == 1 ? 1 : (4 * threads + panel_count_ - 1) / panel_count_;
    wide_ = pixels_ * images_ > kExactProducts;
    constexpr int64_t kGroupChannels = 64;  // dy is worth reading once for so many
    if (!wide_) groups_ = std::clamp<int64_t>(p_.channels / kGroupChannels, 1, tasks);
    if (const int64_t parts = std::min(visits, tasks); panel_count_ < 2 * threads && parts >= groups_) {
      parts_ = parts;
      groups_ = 1;
    }
    visits_per_part_ = (visits + parts_ - 1) / parts_;
    parts_ = (visits + visits_per_part_ - 1) / visits_per_part_;
    one_visit_ = visits == 1;
    sums_size_ = pairs_ * (one_visit_ ? 1 : taps_) * padded_channels_;
    if (parts_ == 1) return;
    if (wide_) {
      wide_sums_ = workspace_.take<int64_t>(parts_ * sums_size_ * padded_columns_);
    } else {
      sums_ = workspace_.take<int32_t>(parts_ * sums_size_ * padded_columns_);
    }
  }

  // ---- layouts ----

  uint8_t* x_at(int digit, int64_t block, int64_t h, int64_t w) const {
    return xt_ + digit * x_plane_ + ((block * p_.rows.in + h) * p_.cols.in + w) * p_.channels * images_;
  }

  /// Missing images of the last block are zeros in both operands.
  void pack_x_row(int64_t block, int64_t h);

  /// Up to 16 images of up to kTransposeBytes neighbouring codes.
  void pack_x_columns(int64_t block, int64_t image, int64_t first, int64_t columns, uint8_t* target) const;

  void pack_dy_row(int64_t block, int64_t oh, void* packed) const {
    constexpr int64_t kTogether = 4;  // quads of images at a time: 16 streams through memory
    GradientPart part{.block = block, .first_pixel = oh * p_.cols.out, .last_pixel = (oh + 1) * p_.cols.out};
    for (; part.first_quad < quads_; part.first_quad = part.last_quad) {
      part.last_quad = std::min(part.first_quad + kTogether, quads_);
      dy_.pack(part, packed);
    }
    dy_.sum(part, packed);
  }

  // ---- sums over the valid pixels of a tap ----

  struct Tap {
    int32_t row = 0, col = 0;
  };

  int64_t tap_cols() const { return std::ssize(p_.cols.order); }

  Tap tap_at(int64_t tap) const {
    return {static_cast<int32_t>(tap / tap_cols()), static_cast<int32_t>(tap % tap_cols())};
  }

  /// The input coordinate that tap t of output coordinate o reads, -1 outside.
  static int64_t input_of(const TapAxis& axis, int64_t o, int32_t t) {
    const TapSpan& span = axis.spans[static_cast<size_t>(o)];
    return t >= span.first && t < span.last ? span.input + (t - span.first) * axis.dilation : -1;
  }

  void sum_taps();

  /// Of an input row, by tap column.
  void sum_x_row(int64_t h);

  /// Of an output row.
  void sum_dy_row(int64_t tap_col, int64_t oh);

  void sum_tap(int64_t index);

  // ---- products ----

  /// Where the sums of a panel lie: [part][pair of digits][tap][channel][lanes]; one of the two kinds.
  struct Sums {
    int32_t* narrow = nullptr;
    int64_t* wide = nullptr;
    int64_t parts = 1;
  };

  Sums parts_of(const PanelSpan& panel, int64_t part = 0) const {
    const int64_t at = sums_size_ * (parts_ * panel.begin + part * panel.lanes);
    return {sums_ ? sums_ + at : nullptr, wide_sums_ ? wide_sums_ + at : nullptr, parts_};
  }

  int64_t sums_row(int64_t pair, int64_t tap) const {
    return (one_visit_ ? pair : pair * taps_ + tap) * padded_channels_;
  }

  void run_part(int64_t panel_index, int64_t part, const ChannelSpan& channels) {
    Workspace workspace;
    const PanelSpan& panel = dy_.span(panel_index);
    const int64_t size = sums_size_ * panel.lanes;
    Sums sums = parts_of(panel, part);
    sums.parts = 1;
    if (wide_ && parts_ == 1) sums.wide = workspace.take<int64_t>(size);
    if (wide_ || parts_ == 1) sums.narrow = workspace.take<int32_t>(size);
    if (wide_) std::fill_n(sums.wide, size, 0);
    auto* segments = workspace.take<Segment>(visit_);
    const int64_t end = std::min(pixels_, (part + 1) * visits_per_part_ * visit_);
    int64_t pending = 0;
    for (int64_t begin = part * visits_per_part_ * visit_; begin < end; begin += visit_) {
      const int64_t last = std::min(begin + visit_, end);
      if (wide_ && pending + (last - begin) * images_ > kExactProducts) {
        flush(sums, size);
        pending = 0;
      }
      Workspace of_visit;
      const Gradient dy = gradient_of(panel, begin, last, of_visit);
      for (int64_t tap = 0; tap < taps_; ++tap) {
        const int64_t count = find_segments(tap_at(tap), begin, last, segments);
        visit_tap(tap, panel, dy, channels, segments, count, pending == 0, sums.narrow);
        if (one_visit_) finish(panel, tap, channels, sums);
      }
      pending += (last - begin) * images_;
    }
    if (wide_) flush(sums, size);
    if (parts_ > 1 || one_visit_) return;
    for (int64_t tap = 0; tap < taps_; ++tap) finish(panel, tap, channels, sums);
  }

  /// The digits of dy in a visit, as tiles read them.
  struct Gradient {
    const int8_t* digits[2];
  };

  Gradient gradient_of(const PanelSpan& panel, int64_t begin, int64_t end, Workspace& workspace) const {
    Gradient gradient{};
    const int64_t pixel_bytes = images_ * panel.lanes;
    for (int digit = 0; digit < dy_split_.count; ++digit) {
      gradient.digits[digit] = wide_panel<Isa>(dy_.data(packed_dy_, panel, digit) + begin * pixel_bytes,
                                               (end - begin) * pixel_bytes, workspace);
    }
    return gradient;
  }

  static void flush(const Sums& sums, int64_t size) {
    for (int64_t i = 0; i < size; ++i) sums.wide[i] += sums.narrow[i];
  }

  /// The output pixels [begin, end) where a tap lies inside the image; of dy counted from the first one.
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
          if (w >= 0) segments[count++] = {x_at(0, block, h, w) - xt_, (i - begin) * quads_, quads_};
        }
      }
      p = row_end;
    }
    return count;
  }

  /// Starts the sums anew or adds to them.
  void visit_tap(int64_t tap, const PanelSpan& panel, const Gradient& dy, const ChannelSpan& channels,
                 const Segment* segments, int64_t count, bool anew, int32_t* sums) const {
    for (int a = 0; a < x_split_.count; ++a) {
      for (int b = 0; b < dy_split_.count; ++b) {
        int32_t* rows = sums + sums_row(a * dy_split_.count + b, tap) * panel.lanes;
        visit_channels(std::integral_constant<int, Isa::kMaxVectors>{}, xt_ + a * x_plane_, channels,
                       dy.digits[b], panel.lanes, segments, count, anew, rows);
      }
    }
  }

  template <int kVectors>
  void visit_channels(std::integral_constant<int, kVectors>, const uint8_t* x, const ChannelSpan& channels,
                      const int8_t* dy, int64_t lanes, const Segment* segments, int64_t count, bool anew,
                      int32_t* sums) const {
    if constexpr (kVectors > 1) {
      if (lanes != kVectors * Isa::kWidth) {
        visit_channels(std::integral_constant<int, kVectors - 1>{}, x, channels, dy, lanes, segments, count,
                       anew, sums);
        return;
      }
    }
    constexpr int kFull = Isa::kRows[kVectors];
    constexpr int kMiddle = (2 * kFull + 2) / 3;
    constexpr int kSmall = (kFull + 2) / 3;
    for (int64_t c = channels.begin; c < channels.end; c += kFull) {
      const int64_t left = channels.end - c;
      int32_t* rows = sums + c * lanes;
      if (left > kMiddle) {
        add_tile<kFull, kVectors>(x, c, dy, segments, count, anew, rows);
      } else if (left > kSmall) {
        add_tile<kMiddle, kVectors>(x, c, dy, segments, count, anew, rows);
      } else {
        add_tile<kSmall, kVectors>(x, c, dy, segments, count, anew, rows);
      }
    }
  }

  template <int kRows, int kVectors>
  __attribute__((noinline)) void add_tile(const uint8_t* x, int64_t channel, const int8_t* dy,
                                          const Segment* segments, int64_t count, bool anew,
                                          int32_t* total) const {
    typename Isa::Sum sums[kRows][kVectors];
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        sums[i][j] = anew ? Isa::zero() : Isa::load(total + (i * kVectors + j) * Isa::kWidth);
      }
    }
    if (images_ == ImageBlocks::kMost) {
      const EvenRows<ImageBlocks::kMost> rows{x + channel * ImageBlocks::kMost};
      multiply_tile<Isa, kRows, kVectors>(rows, dy, segments, count, sums);
    } else {
      ScatteredRows<kRows> rows;
      for (int i = 0; i < kRows; ++i) rows.first[i] = x + std::min(channel + i, p_.channels - 1) * images_;
      multiply_tile<Isa, kRows, kVectors>(rows, dy, segments, count, sums);
    }
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) Isa::store(total + (i * kVectors + j) * Isa::kWidth, sums[i][j]);
    }
  }

  // ---- results ----

  /// One tap of a panel: adds parts and digits, takes out zero points, scales, transposes to [k][tap][c].
  void finish(const PanelSpan& panel, int64_t tap, const ChannelSpan& channels, const Sums& sums) const;

  /// values[channel][lane] -> dw[lane][tap][channel].
  void store_channels(const PanelSpan& panel, int64_t tap, int64_t channel, int64_t count,
                      const float* values) const;

  /// Bytes without a zero point of dy: int32 holds every sum (shifted sums may wrap on the way).
  void finish_fast(const Sums& sums, const PanelSpan& panel, int64_t tap, int64_t channel,
                   const int32_t* starts, float* values) const;

  template <class Number, class Part>
  void finish_channel(const Part* all, int64_t parts, const PanelSpan& panel, int64_t tap, int64_t channel,
                      float* values) const;

  const WeightGradientProblem& p_;
  Workspace workspace_;
  const GradientPanels<Isa> dy_;
  const void* packed_dy_ = nullptr;
  DigitSplit x_split_, dy_split_;
  bool wide_ = false, one_visit_ = false, offsets_ = false, needs_x_sums_ = false;
  int64_t pairs_ = 1, taps_ = 1, image_blocks_ = 1, images_ = 4, quads_ = 1, pixels_ = 1;
  int64_t panel_count_ = 1, padded_columns_ = 0, padded_channels_ = 0, x_plane_ = 0;
  int64_t zero_x_ = 0, zero_dy_ = 0, visit_ = 1, visits_per_part_ = 1, parts_ = 1, groups_ = 1,
          sums_size_ = 0;
  uint8_t* xt_ = nullptr;
  double* row_dy_sums_ = nullptr;  ///< [tap column][output row][padded columns]
  double* row_x_sums_ = nullptr;   ///< [tap column][input row][channels]
  double* tap_dy_sums_ = nullptr;
  double* tap_x_sums_ = nullptr;
  int64_t* tap_counts_ = nullptr;
  int32_t* sums_ = nullptr;
  int64_t* wide_sums_ = nullptr;
};

}  // namespace bitdial::kernels::vector

#include "bitdial/kernels/vector/weight_gradient_layout.h"
#include "bitdial/kernels/vector/weight_gradient_results.h"
