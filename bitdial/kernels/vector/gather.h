#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "bitdial/core/parallel.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/channel_sums.h"
#include "bitdial/kernels/output_pass.h"
#include "bitdial/kernels/vector/channel_sums.h"
#include "bitdial/kernels/vector/problems.h"
#include "bitdial/kernels/vector/tile.h"
#include "bitdial/kernels/vector/weight_panels.h"
#include "bitdial/kernels/workspace.h"

// FPROP and BPROP: every output pixel gathers its valid taps of the input (indirection, no im2col). Pixels of
// a block of images are ordered by border class, so that a tile's rows meet the same taps and padding costs
// nothing.
namespace bitdial::kernels::vector {

/// An output pixel of a block: where its first valid tap lies, in bytes, and where its result goes, in
/// pixels.
struct Pixel {
  int32_t input = 0;
  int32_t output = 0;
};

/// The output pixels of a block by border class, within a class in memory order.
struct PixelList {
  Pixel* pixels = nullptr;
  int32_t* sources = nullptr;  ///< per pixel, the first valid tap's place counted in input pixels
  int64_t* class_ends = nullptr;
  int64_t count = 0;
};

/// Images [first_image, last_image), output rows [first_row, last_row).
struct Block {
  int64_t first_image = 0, last_image = 0, first_row = 0, last_row = 0;
};

/// The input of a block as unsigned digits.
struct BlockInput {
  const uint8_t* digits = nullptr;
  int64_t plane = 0, image_bytes = 0, row_bytes = 0, pixel_bytes = 0;
  int64_t first_row = 0, rows = 0;
};

template <class Isa>
class Gather {
 public:
  explicit Gather(const GatherProblem& problem)
      : p_(problem),
        panels_(problem, workspace_),
        input_split_(unsigned_digits(problem.input.type)),
        weight_split_(panels_.split()),
        panel_count_(panels_.count()),
        padded_columns_(panels_.padded_columns()),
        cols_(problem.cols) {}

  void run() {
    prepare();
    run_tasks(blocks_ * splits_, [this](int64_t task) { run_block(task / splits_, task % splits_); });
    if (p_.output.sums) add_channel_parts();
  }

 private:
  struct Class {
    const Segment* segments = nullptr;
    int64_t segment_count = 0;
    int64_t products = 0;
    int64_t row_pixels = 0;  ///< of an output row
    int64_t run_bytes = 0;   ///< from one of them to the next in the input; 0: uneven
  };

  void prepare() {
    const PhaseScope phase(Phase::kPack);
    plan();
    panels_.start(workspace_);
    run_tasks(panel_count_, [this](int64_t panel) { panels_.finish(panel); });
    sum_classes();
    prepare_offset_terms();
    partition();
    list_shared_pixels();
    prepare_channel_sums();
    prepare_pass();
  }

  // ---- planning ----

  void plan();

  void find_segments();

  /// Taps that are neighbours in the input and in the panel form one segment.
  Class segments_of(const TapSpan& rows, const TapSpan& cols);

  /// Unsigned bytes whose channels come in fours are read where they lie.
  void set_input_strides();

  /// Surrounds image rows by the zero point where narrow panels gain more from whole runs of pixels than the
  /// taps in the padding cost.
  void pad_columns();

  /// Input columns from each output column of a class to the next; 0 where they differ.
  static int64_t step_between(const TapAxis& cols, size_t cls);

  void prepare_params();

  /// Spreads the zero points over the digits; whether every pair of digits then sums up in int32 (shifted
  /// sums may wrap on the way).
  bool zeros_fit();

  /// Whether the sums of an input of two digits and weights of one fit int32 as a whole.
  bool digits_join() const;

  // ---- sums of weights ----

  /// Per weight digit, border class and column: the sum of the weights under the class's taps; for the fast
  /// path, what the sums of each pair of digits start from.
  void sum_classes();

  /// Products of (u - zero_a)(w - zero_b), but for the part that depends on the pixel.
  void start_sums(int64_t cls, int a, int b, const double* weight_sums);

  int32_t* starts_at(int64_t cls, int a, int b) const {
    return starts_ + ((a * weight_split_.count + b) * class_count_ + cls) * padded_columns_;
  }

  // ---- blocks ----

  void partition();

  Block block_at(int64_t index) const {
    const int64_t image = index / row_blocks_ * images_;
    const int64_t row = index % row_blocks_ * block_rows_;
    return {image, std::min(image + images_, p_.batch), row, std::min(row + block_rows_, p_.rows.out)};
  }

  void prepare_channel_sums() {
    if (!p_.output.sums) return;
    const float* shift = p_.output.sums->shift;
    channel_parts_ = workspace_.take<double>(blocks_ * 2 * padded_columns_);
    shifts_ = workspace_.take<float>(padded_columns_);
    for (int64_t k = 0; k < padded_columns_; ++k) {
      shifts_[k] = shift && k < p_.columns ? shift[p_.output_first + k] : 0.0F;
    }
  }

  void add_channel_parts() const {
    const ChannelSums& sums = *p_.output.sums;
    add_partial_sums({nullptr, sums.sum + p_.output_first, sums.sum_squares + p_.output_first},
                     channel_parts_, blocks_, p_.columns, padded_columns_);
  }

  /// A block is a stretch of the pass over the output, where all blocks begin at pixels that it can begin at.
  void prepare_pass() {
    OutputPass* pass = p_.output.pass;
    const int64_t image = p_.rows.out * p_.cols.out;
    const int64_t block = row_blocks_ > 1 ? block_rows_ * p_.cols.out : images_ * image;
    const auto is_aligned = [&](int64_t pixels) { return pixels % pass->alignment() == 0; };
    if (!pass || !is_aligned(block) || (row_blocks_ > 1 && !is_aligned(image))) return;
    stretches_.begin(*pass, blocks_, splits_, workspace_);
  }

  void run_block(int64_t index, int64_t split) {
    const Block block = block_at(index);
    multiply_block(index, block, split);
    const auto pixel = [&](int64_t image, int64_t row) { return (image * p_.rows.out + row) * p_.cols.out; };
    stretches_.done(index, pixel(block.first_image, block.first_row),
                    pixel(block.last_image - 1, block.last_row));
  }

  void multiply_block(int64_t index, const Block& block, int64_t split) {
    Workspace workspace;
    const BlockInput input = prepare_input(block, workspace);
    const bool whole = shared_list_.count > 0 && block.last_image - block.first_image == images_;
    const PixelList list = whole ? shared_list_ : list_pixels(block, input, workspace);
    const double* sums = needs_sums_ ? sum_pixels(block, input, list, workspace) : nullptr;
    const int64_t first = panel_count_ * split / splits_;
    const int64_t last = panel_count_ * (split + 1) / splits_;
    for (int64_t panel = first; panel < last; ++panel) {
      const PanelSpan& span = panels_.span(panel);
      double* channel_sums =
          channel_parts_ ? channel_parts_ + index * 2 * padded_columns_ + span.begin : nullptr;
      for (int64_t k = 0; channel_sums && k < span.lanes; ++k) {
        channel_sums[k] = channel_sums[padded_columns_ + k] = 0.0;
      }
      Workspace of_panel;
      Weights weights{};
      for (int digit = 0; digit < weight_split_.count; ++digit) {
        weights.digits[digit] =
            wide_panel<Isa>(panels_.data(span, digit), panels_.digit_bytes(span), of_panel);
      }
      run_panel(std::integral_constant<int, Isa::kMaxVectors>{}, block, input, list, sums, span, weights,
                channel_sums);
    }
  }

  /// Blocks of whole images share one list of pixels.
  void list_shared_pixels();

  /// The input rows that a block reads, and the strides of its digits.
  BlockInput input_rows(const Block& block) const;

  BlockInput prepare_input(const Block& block, Workspace& workspace) const;

  void convert_image(int64_t image, const BlockInput& input, uint8_t* digits) const;

  /// The columns of an image row, without padding.
  void convert_row(int64_t first, uint8_t* digits, int64_t plane) const;

  /// A row of images with three channels, the input of most networks.
  void convert_triples(int64_t first, uint8_t* digits) const;

  PixelList list_pixels(const Block& block, const BlockInput& input, Workspace& workspace) const;

  /// The pixels of one output row that belong to a class.
  void list_row(int64_t cls, int64_t input, int64_t source, int64_t output, PixelList& list) const;

  /// Per input digit and listed pixel the sum of the digits under its taps.
  double* sum_pixels(const Block& block, const BlockInput& input, const PixelList& list,
                     Workspace& workspace) const;

  void sum_channels(const BlockInput& input, int digit, int64_t images, int32_t* sums) const;

  /// The sums of up to kSummedTogether pixels of a class whose inputs are neighbours; `Total` holds each.
  static constexpr int64_t kSummedTogether = 64;
  template <class Total>
  void sum_taps(const int32_t* first, int64_t cls, int64_t count, double* sums) const;

  // ---- tiles ----

  /// A panel's digits, as tiles read them.
  struct Weights {
    const int8_t* digits[2];
  };

  template <int kVectors>
  void run_panel(std::integral_constant<int, kVectors>, const Block& block, const BlockInput& input,
                 const PixelList& list, const double* sums, const PanelSpan& panel, const Weights& weights,
                 double* channel_sums) const {
    if constexpr (kVectors > 1) {
      if (panel.lanes != kVectors * Isa::kWidth) {
        run_panel(std::integral_constant<int, kVectors - 1>{}, block, input, list, sums, panel, weights,
                  channel_sums);
        return;
      }
    }
    constexpr int kRows = Isa::kRows[kVectors];
    int64_t begin = 0;
    const int64_t first = block.first_image * p_.rows.out * p_.cols.out;
    const bool plain = !bias_ && panel.columns == kVectors * Isa::kWidth;
    for (int64_t i = 0; i < class_count_; begin = list.class_ends[i++]) {
      const Tile tile{block,      input, classes_[i],
                      i,          panel, weights,
                      list.count, plain, p_.output_first + first * p_.output_stride + panel.begin};
      int64_t summed = begin;  // pixels up to here are in the channel sums
      for (int64_t j = begin; j < list.class_ends[i]; j += kRows) {
        const int64_t rows = std::min<int64_t>(kRows, list.class_ends[i] - j);
        run_tile<kRows, kVectors>(tile, list.pixels + j, rows, sums ? sums + j : nullptr);
        const int64_t stored = j + rows - summed;
        if (channel_sums && (stored + kRows > kSumRows || j + rows == list.class_ends[i])) {
          sum_tiles<kVectors>(tile, list.pixels + summed, stored, channel_sums);
          summed = j + rows;
        }
      }
    }
  }

  /// What the tiles of a class and panel share.
  struct Tile {
    const Block& block;
    const BlockInput& input;
    const Class& cls;
    int64_t class_index;
    const PanelSpan& panel;
    const Weights& weights;
    int64_t sums_stride;  ///< of the pixel sums of the second digit
    bool plain;           ///< whole vectors, no bias
    int64_t output;       ///< element of the block's first pixel and the panel's first column
  };

  template <int kRows, int kVectors>
  BITDIAL_INLINE void run_tile(const Tile& tile, const Pixel* pixels, int64_t count,
                               const double* sums) const {
    if (!fast_) {
      if (wide_) {
        exact_tile<kRows, kVectors, int64_t>(tile, pixels, count, sums);
      } else {
        exact_tile<kRows, kVectors, double>(tile, pixels, count, sums);
      }
    } else if (joined_) {
      direct_tile<kRows, kVectors, 2>(tile, pixels, count);
    } else if (needs_sums_ || input_split_.count * weight_split_.count > 1) {
      digit_tile<kRows, kVectors>(tile, pixels, count, sums);
    } else {
      direct_tile<kRows, kVectors, 1>(tile, pixels, count);
    }
  }

  /// Whole results in the registers' int32 sums.
  template <int kRows, int kVectors, int kDigits>
  BITDIAL_INLINE void direct_tile(const Tile& tile, const Pixel* pixels, int64_t count) const {
    constexpr int kRun = Isa::kRun[kVectors];
    if constexpr (kRun > 1) {
      if (tile.cls.run_bytes != 0 && tile.cls.row_pixels % kRun == 0) {
        direct_tile<kRows, kVectors, kDigits, kRun>(tile, pixels, count);
        return;
      }
    }
    direct_tile<kRows, kVectors, kDigits, 1>(tile, pixels, count);
  }

  template <int kRows, int kVectors, int kDigits, int kRun>
  BITDIAL_INLINE void direct_tile(const Tile& tile, const Pixel* pixels, int64_t count) const {
    constexpr int kMiddle = (2 * kRows + 2) / 3;
    constexpr int kSmall = (kRows + 2) / 3;
    if (count > kMiddle) {
      const bool whole = count == kRows && tile.plain;
      if (whole && p_.output.type == OutputType::kBFloat16) {
        byte_tile<kRows, kVectors, kDigits, kRun, uint16_t>(tile, pixels, count);
      } else if (whole) {
        byte_tile<kRows, kVectors, kDigits, kRun, float>(tile, pixels, count);
      } else {
        byte_tile<kRows, kVectors, kDigits, kRun, void>(tile, pixels, count);
      }
    } else if (count > kSmall) {
      byte_tile<kMiddle, kVectors, kDigits, kRun, void>(tile, pixels, count);
    } else {
      byte_tile<kSmall, kVectors, kDigits, kRun, void>(tile, pixels, count);
    }
  }

  /// Reads stored tiles again: they are in the L1 cache, and the products' registers are free.
  template <int kVectors>
  __attribute__((noinline)) void sum_tiles(const Tile& tile, const Pixel* pixels, int64_t count,
                                           double* sums) const {
    const auto add = [&](const auto* output) {
      decltype(output) rows[kSumRows];
      for (int64_t i = 0; i < count; ++i) rows[i] = output + output_index(tile, pixels[i]);
      add_channel_sums<Isa, kVectors>([&](int64_t i) { return rows[i]; }, count, tile.panel.columns,
                                      shifts_ + tile.panel.begin, sums, sums + padded_columns_);
    };
    if (p_.output.type == OutputType::kFloat32) {
      add(static_cast<const float*>(p_.output.data));
    } else {
      add(static_cast<const uint16_t*>(p_.output.data));
    }
  }

  template <int kRows>
  BITDIAL_INLINE void find_rows(const Tile& tile, int digit, const Pixel* pixels, int64_t count,
                                ScatteredRows<kRows>& rows) const {
    const uint8_t* digits = tile.input.digits + digit * tile.input.plane;
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) rows.first[i] = digits + pixels[i < count ? i : count - 1].input;
  }

  /// The same of pixels that come in whole runs.
  template <int kRows, int kRun>
  BITDIAL_INLINE void find_rows(const Tile& tile, int digit, const Pixel* pixels, int64_t count,
                                RunRows<kRows, kRun>& rows) const {
    static_assert(kRows % kRun == 0);
    const uint8_t* digits = tile.input.digits + digit * tile.input.plane;
#pragma GCC unroll 32
    for (int i = 0; i < kRows; i += kRun) {
      rows.first[i / kRun] = digits + pixels[i < count ? i : count - kRun].input;
    }
    rows.set_stride(tile.cls.run_bytes);
  }

  int64_t output_index(const Tile& tile, const Pixel& pixel) const {
    return tile.output + pixel.output * p_.output_stride;
  }

  /// Weights of one digit, no sums over the pixel needed: float(S) * scale (+ bias) straight from the
  /// registers. The input's digits are added up in one sum. `Out` is the output's type where all rows and
  /// columns are real and there is no bias, else void. kRun above 1: pixels come in such runs.
  template <int kRows, int kVectors, int kDigits, int kRun, class Out>
  __attribute__((noinline)) void byte_tile(const Tile& tile, const Pixel* pixels, int64_t count) const;

  /// Several digits, or weights with a zero point that all columns share.
  template <int kRows, int kVectors>
  __attribute__((noinline)) void digit_tile(const Tile& tile, const Pixel* pixels, int64_t count,
                                            const double* pixel_sums) const;

  /// float(sum over the pairs of digits), rounded once. Two parts are those of one operand's digits.
  BITDIAL_INLINE typename Isa::Float combine_digits(const int32_t* parts, int64_t stride) const;

  template <int kVectors>
  BITDIAL_INLINE void store_row(typename Isa::Float (&values)[kVectors], int64_t at,
                                const PanelSpan& panel) const;

  template <int kVectors, class T>
  BITDIAL_INLINE static void store_values(T* output, const typename Isa::Float (&values)[kVectors],
                                          int64_t columns);

  /// Any zero points and offsets, any length of the reduction.
  template <int kRows, int kVectors, class Number>
  __attribute__((noinline)) void exact_tile(const Tile& tile, const Pixel* pixels, int64_t count,
                                            const double* pixel_sums) const;

  /// Sums that start from starts[column] + shifts[row].
  template <int kRows, int kVectors>
  __attribute__((noinline)) static void multiply_part(const ScatteredRows<kRows>& rows, const int8_t* panel,
                                                      const Segment* segments, int64_t count,
                                                      const int32_t* starts, const int32_t* shifts,
                                                      int32_t* part);

  /// Takes the zero points out of one row's sums and applies scales, offsets and bias.
  template <class Number>
  void finish_row(const Tile& tile, const Number* total, double pixel_sum, int64_t at, int64_t image) const;
  /// The same for `count` rows where every column has an offset on one side or the other, and one input range
  /// holds for all.
  BITDIAL_INLINE void finish_offset_rows(const Tile& tile, const double* totals, int64_t stride,
                                         const Pixel* pixels, int64_t count, const double* pixel_sums) const;
  BITDIAL_INLINE void store_finished(const float* values, int64_t columns, int64_t at) const;
  void prepare_offset_terms();

  /// The parts of with_offsets() that a row does not change; by column, those of the weights by class as
  /// well.
  struct OffsetTerms {
    double* scales = nullptr;          ///< scale_a * scale_b; null: finish_row
    double* weight_offsets = nullptr;  ///< scale_a * offset_b
    double* own_b = nullptr;           ///< sums of the weights, relative to their zero points
    double* by_b = nullptr;            ///< offset_a * scale_b * own_b
    double* constants = nullptr;       ///< count * offset_a * offset_b
  };

  const GatherProblem& p_;
  Workspace workspace_;
  WeightPanels<Isa> panels_;
  DigitSplit input_split_, weight_split_;
  int64_t panel_count_, padded_columns_;
  TapAxis cols_;         ///< the problem's, or with padding
  int64_t padding_ = 0;  ///< input columns in front of the image
  uint8_t padding_digits_[2] = {0, 0};
  PixelList shared_list_;
  bool fast_ = false, needs_sums_ = false, joined_ = false, wide_ = false, in_place_ = false;
  int64_t quads_ = 0, tap_rows_ = 0, tap_cols_ = 0;
  int64_t col_classes_ = 0, class_count_ = 0, pixel_bytes_ = 0, row_bytes_ = 0;
  int64_t images_ = 1, block_rows_ = 1, row_blocks_ = 1, blocks_ = 1, splits_ = 1;
  Class* classes_ = nullptr;
  double* class_sums_ = nullptr;
  int32_t* starts_ = nullptr;
  float* scales_ = nullptr;
  double* weight_zeros_ = nullptr;
  OffsetTerms terms_;
  QuantParams* weight_params_ = nullptr;
  int64_t input_zero_[2] = {0, 0};  ///< the zero points, digit by digit
  int64_t weight_zero_[2] = {0, 0};
  float* bias_ = nullptr;
  float* shifts_ = nullptr;
  double* channel_parts_ = nullptr;  ///< [block][sums, sums of squares][padded columns]
  StretchTasks stretches_;
};

}  // namespace bitdial::kernels::vector

#include "bitdial/kernels/vector/gather_input.h"
#include "bitdial/kernels/vector/gather_plan.h"
#include "bitdial/kernels/vector/gather_tiles.h"
