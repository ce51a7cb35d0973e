#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/channel_sums.h"
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
        padded_columns_(panels_.padded_columns()) {}

  void run() {
    plan();
    run_tasks(panel_count_, [this](int64_t panel) { panels_.pack(panel); });
    sum_classes();
    partition();
    list_shared_pixels();
    prepare_channel_sums();
    run_tasks(blocks_ * splits_, [this](int64_t task) { run_block(task / splits_, task % splits_); });
    if (p_.output.sums) add_channel_parts();
  }

 private:
  struct Class {
    const Segment* segments = nullptr;
    int64_t segment_count = 0;
    int64_t products = 0;
  };

  // ---- planning ----

  void plan() {
    quads_ = (p_.channels + 3) / 4;
    tap_rows_ = static_cast<int64_t>(p_.rows.order.size());
    tap_cols_ = static_cast<int64_t>(p_.cols.order.size());
    find_segments();
    prepare_params();
  }

  void find_segments() {
    col_classes_ = static_cast<int64_t>(p_.cols.classes.size());
    class_count_ = static_cast<int64_t>(p_.rows.classes.size()) * col_classes_;
    classes_ = workspace_.take<Class>(class_count_);
    set_input_strides();
    for (int64_t i = 0; i < class_count_; ++i) {
      const TapSpan& rows = p_.rows.classes[static_cast<size_t>(i / col_classes_)];
      const TapSpan& cols = p_.cols.classes[static_cast<size_t>(i % col_classes_)];
      classes_[i] = segments_of(rows, cols);
    }
  }

  /// Taps that are neighbours in the input and in the panel form one segment.
  Class segments_of(const TapSpan& rows, const TapSpan& cols) {
    constexpr int64_t kLongest = kExactProducts / 4;
    const bool adjacent = p_.cols.dilation == 1 && pixel_bytes_ == 4 * quads_;
    const int64_t taps = cols.last - cols.first;
    const int64_t runs = adjacent ? std::min<int64_t>(taps, 1) : taps;
    const int64_t quads = adjacent ? taps * quads_ : quads_;
    const int64_t pieces = (quads + kLongest - 1) / kLongest;
    auto* segments = workspace_.take<Segment>(std::max<int64_t>(1, (rows.last - rows.first) * runs * pieces));
    int64_t count = 0;
    for (int64_t r = rows.first; r < rows.last; ++r) {
      for (int64_t run = 0; run < runs; ++run) {
        Segment segment{
            (r - rows.first) * p_.rows.dilation * row_bytes_ + run * p_.cols.dilation * pixel_bytes_,
            (r * tap_cols_ + cols.first + run) * quads_, 0};
        for (int64_t left = quads; left > 0; left -= segment.quads) {
          segment.quads = std::min(left, kLongest);
          segments[count++] = segment;
          segment.a += 4 * segment.quads;
          segment.b += segment.quads;
        }
      }
    }
    return {segments, count, (rows.last - rows.first) * taps * p_.channels};
  }

  /// Unsigned bytes whose channels come in fours are read where they lie.
  void set_input_strides() {
    in_place_ = p_.input.type == CodeType::kU8 && p_.channels % 4 == 0;
    pixel_bytes_ = in_place_ ? p_.column_stride : 4 * quads_;
    row_bytes_ = in_place_ ? p_.row_stride : pixel_bytes_ * p_.cols.in;
  }

  void prepare_params() {
    scales_ = workspace_.take<float>(padded_columns_);
    weight_zeros_ = workspace_.take<double>(padded_columns_);
    weight_params_ = workspace_.take<QuantParams>(padded_columns_);
    bias_ = p_.bias ? workspace_.take<float>(padded_columns_) : nullptr;
    bool offsets = false;
    bool uniform = true;
    for (int64_t k = 0; k < padded_columns_; ++k) {
      const QuantParams params = k < p_.columns ? p_.weight_params(k) : QuantParams{};
      weight_params_[k] = params;
      scales_[k] = p_.input.params[0].scale * params.scale;
      weight_zeros_[k] = k < p_.columns ? static_cast<double>(weight_split_.zero + params.zero_code) : 0.0;
      uniform &= k >= p_.columns || weight_zeros_[k] == weight_zeros_[0];
      offsets |= params.offset != 0.0F;
      if (bias_) bias_[k] = k < p_.columns ? p_.bias[k] : 0.0F;
    }
    for (const QuantParams& params : p_.input.params) offsets |= params.offset != 0.0F;
    fast_ = uniform && !offsets && p_.input.params.size() == 1 && zeros_fit();
    needs_sums_ = !fast_ || weight_zero_[0] != 0 || weight_zero_[1] != 0;
    wide_ = tap_rows_ * tap_cols_ * p_.channels > (int64_t{1} << 18);
  }

  /// Spreads the zero points over the digits; whether every pair of digits then sums up in int32 (shifted
  /// sums may wrap on the way).
  bool zeros_fit() {
    const int64_t zero_a = input_split_.zero + p_.input.params[0].zero_code;
    const auto zero_b = static_cast<int64_t>(weight_zeros_[0]);
    input_zero_[1] = input_split_.count == 2 ? zero_a >> 8 : 0;
    input_zero_[0] = zero_a - 256 * input_zero_[1];
    weight_zero_[1] = weight_split_.count == 2 ? (zero_b + 128) >> 8 : 0;
    weight_zero_[0] = zero_b - 256 * weight_zero_[1];
    int64_t largest_a = 0;
    int64_t largest_b = 0;
    for (const int64_t zero : input_zero_) largest_a = std::max({largest_a, zero, 255 - zero});
    for (const int64_t zero : weight_zero_) largest_b = std::max({largest_b, 128 + zero, 127 - zero});
    constexpr int64_t kLargest = (int64_t{1} << 31) - 1;
    const int64_t products = tap_rows_ * tap_cols_ * p_.channels;
    return largest_a < 1 << 16 && largest_b < 1 << 16 && products <= kLargest / (largest_a * largest_b);
  }

  // ---- sums of weights ----

  /// Per weight digit, border class and column: the sum of the weights under the class's taps; for the fast
  /// path, what the sums of each pair of digits start from.
  void sum_classes() {
    const int64_t size = class_count_ * padded_columns_;
    class_sums_ = workspace_.take<double>(weight_split_.count * size);
    starts_ = workspace_.take<int32_t>(input_split_.count * weight_split_.count * size);
    for (int64_t i = 0; i < class_count_; ++i) {
      const TapSpan& rows = p_.rows.classes[static_cast<size_t>(i / col_classes_)];
      const TapSpan& cols = p_.cols.classes[static_cast<size_t>(i % col_classes_)];
      for (int b = 0; b < weight_split_.count; ++b) {
        double* sums = class_sums_ + b * size + i * padded_columns_;
        std::fill_n(sums, padded_columns_, 0.0);
        for (int64_t r = rows.first; r < rows.last; ++r) {
          for (int64_t q = cols.first; q < cols.last; ++q) {
            const int32_t* tap = panels_.tap_sums(b, r, q);
            for (int64_t k = 0; k < padded_columns_; ++k) sums[k] += tap[k];
          }
        }
        for (int a = 0; fast_ && a < input_split_.count; ++a) start_sums(i, a, b, sums);
      }
    }
  }

  /// Products of (u - zero_a)(w - zero_b), but for the part that depends on the pixel.
  void start_sums(int64_t cls, int a, int b, const double* weight_sums) {
    int32_t* starts = starts_at(cls, a, b);
    const int64_t constant = classes_[cls].products * input_zero_[a] * weight_zero_[b];
    for (int64_t k = 0; k < padded_columns_; ++k) {
      starts[k] = static_cast<int32_t>(constant - input_zero_[a] * static_cast<int64_t>(weight_sums[k]));
    }
  }

  int32_t* starts_at(int64_t cls, int a, int b) const {
    return starts_ + ((a * weight_split_.count + b) * class_count_ + cls) * padded_columns_;
  }

  // ---- blocks ----

  void partition() {
    constexpr int64_t kBlockBytes = 1 << 18;  // of input digits: a panel fits beside them in a 1 MiB L2 cache
    constexpr int64_t kBlockPixels = 4096;    // their list stays in the cache as well
    const int64_t row = row_bytes_ * input_split_.count;
    const int64_t threads = num_threads();
    const int64_t image = std::max<int64_t>(1, row * p_.rows.in);
    const int64_t pixels = p_.rows.out * p_.cols.out;
    images_ = std::clamp<int64_t>(std::min(kBlockBytes / image, kBlockPixels / pixels), 1, p_.batch);
    block_rows_ = p_.rows.out;
    if (image > kBlockBytes) {
      const int64_t rows_in = std::max<int64_t>(1, kBlockBytes / row);
      block_rows_ = std::max<int64_t>(1, rows_in * p_.rows.out / p_.rows.in);
    }
    // Channel sums need blocks that do not depend on the number of threads.
    const int64_t tasks = p_.output.sums ? 4 : threads > 1 ? 2 * threads : 1;
    images_ = std::min(images_, std::max<int64_t>(1, p_.batch / tasks));
    row_blocks_ = (p_.rows.out + block_rows_ - 1) / block_rows_;
    blocks_ = (p_.batch + images_ - 1) / images_ * row_blocks_;
    splits_ = std::clamp<int64_t>(threads / blocks_, 1, panel_count_);
  }

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

  void run_block(int64_t index, int64_t split) {
    Workspace workspace;
    const Block block = block_at(index);
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
      run_panel(std::integral_constant<int, Isa::kMaxVectors>{}, block, input, list, sums, span,
                channel_sums);
    }
  }

  /// Blocks of whole images share one list of pixels.
  void list_shared_pixels() {
    if (row_blocks_ > 1) return;
    const Block block = block_at(0);
    shared_list_ = list_pixels(block, input_rows(block), workspace_);
  }

  /// The input rows that a block reads, and the strides of its digits.
  BlockInput input_rows(const Block& block) const {
    BlockInput input;
    int64_t first = p_.rows.in;
    int64_t last = 0;
    for (int64_t o = block.first_row; o < block.last_row; ++o) {
      const TapSpan& span = p_.rows.spans[static_cast<size_t>(o)];
      if (span.first == span.last) continue;
      first = std::min<int64_t>(first, span.input);
      last = std::max<int64_t>(last, span.input + (span.last - span.first - 1) * p_.rows.dilation + 1);
    }
    input.first_row = std::min(first, last);
    input.rows = last - input.first_row;
    input.row_bytes = row_bytes_;
    input.pixel_bytes = pixel_bytes_;
    input.image_bytes = in_place_ ? p_.image_stride : input.rows * row_bytes_;
    return input;
  }

  BlockInput prepare_input(const Block& block, Workspace& workspace) const {
    BlockInput input = input_rows(block);
    if (in_place_) {
      input.digits = static_cast<const uint8_t*>(p_.input.codes) + p_.input_first +
                     block.first_image * p_.image_stride + input.first_row * p_.row_stride;
      return input;
    }
    const int64_t images = block.last_image - block.first_image;
    input.plane = images * input.image_bytes;
    auto* digits = workspace.take<uint8_t>(input.plane * input_split_.count);
    for (int64_t n = 0; n < images; ++n)
      convert_image(block.first_image + n, input, digits + n * input.image_bytes);
    input.digits = digits;
    return input;
  }

  void convert_image(int64_t image, const BlockInput& input, uint8_t* digits) const {
    const int64_t first = p_.input_first + image * p_.image_stride + input.first_row * p_.row_stride;
    if (p_.column_stride == p_.channels && pixel_bytes_ == p_.channels && p_.row_stride == row_bytes_) {
      split_digits<Isa>(input_split_, p_.input.codes, first, input.rows * row_bytes_, digits, input.plane);
      return;
    }
    for (int64_t h = 0; h < input.rows; ++h) {
      const int64_t row = first + h * p_.row_stride;
      if (input_split_.count == 1 && p_.channels == 3) {
        convert_triples(row, digits + h * row_bytes_);
        continue;
      }
      for (int64_t w = 0; w < p_.cols.in; ++w) {
        uint8_t* pixel = digits + h * row_bytes_ + w * pixel_bytes_;
        for (int d = 0; d < input_split_.count; ++d) {
          std::memset(pixel + d * input.plane + pixel_bytes_ - 4, 0, 4);
        }
        split_digits<Isa>(input_split_, p_.input.codes, row + w * p_.column_stride, p_.channels, pixel,
                          input.plane);
      }
    }
  }

  /// A row of images with three channels, the input of most networks.
  void convert_triples(int64_t first, uint8_t* digits) const {
    const uint8_t* codes = static_cast<const uint8_t*>(p_.input.codes) + first;
    const uint8_t flip = input_split_.flip[0];
    for (int64_t w = 0; w < p_.cols.in; ++w, codes += p_.column_stride, digits += 4) {
      for (int c = 0; c < 3; ++c) digits[c] = static_cast<uint8_t>(codes[c] ^ flip);
      digits[3] = 0;
    }
  }

  PixelList list_pixels(const Block& block, const BlockInput& input, Workspace& workspace) const {
    const int64_t images = block.last_image - block.first_image;
    PixelList list;
    const int64_t count = images * (block.last_row - block.first_row) * p_.cols.out;
    list.pixels = workspace.take<Pixel>(count);
    list.sources = needs_sums_ ? workspace.take<int32_t>(count) : nullptr;
    list.class_ends = workspace.take<int64_t>(class_count_);
    for (int64_t i = 0; i < class_count_; ++i) {
      for (int64_t n = 0; n < images; ++n) {
        for (int64_t o = block.first_row; o < block.last_row; ++o) {
          if (p_.rows.class_of[static_cast<size_t>(o)] != i / col_classes_) continue;
          const int64_t row = p_.rows.spans[static_cast<size_t>(o)].input - input.first_row;
          list_row(i, n * input.image_bytes + row * input.row_bytes, (n * input.rows + row) * p_.cols.in,
                   (n * p_.rows.out + o) * p_.cols.out, list);
        }
      }
      list.class_ends[i] = list.count;
    }
    return list;
  }

  /// The pixels of one output row that belong to a class.
  void list_row(int64_t cls, int64_t input, int64_t source, int64_t output, PixelList& list) const {
    const TapSpan* spans = p_.cols.spans.data();
    const int32_t* class_of = p_.cols.class_of.data();
    const bool reads = classes_[cls].segment_count > 0;
    for (int64_t o = 0; o < p_.cols.out; ++o) {
      if (class_of[o] != cls % col_classes_) continue;
      const int64_t at = reads ? input + spans[o].input * pixel_bytes_ : 0;
      if (list.sources) list.sources[list.count] = static_cast<int32_t>(reads ? source + spans[o].input : 0);
      list.pixels[list.count++] = {static_cast<int32_t>(at), static_cast<int32_t>(output + o)};
    }
  }

  /// Per input digit and listed pixel the sum of the digits under its taps.
  double* sum_pixels(const Block& block, const BlockInput& input, const PixelList& list,
                     Workspace& workspace) const {
    const int64_t images = block.last_image - block.first_image;
    auto* channel_sums = workspace.take<int32_t>(images * input.rows * p_.cols.in);
    auto* sums = workspace.take<double>(input_split_.count * list.count);
    for (int d = 0; d < input_split_.count; ++d) {
      sum_channels(input, d, images, channel_sums);
      int64_t begin = 0;
      for (int64_t i = 0; i < class_count_; begin = list.class_ends[i++]) {
        for (int64_t j = begin; j < list.class_ends[i]; ++j) {
          sums[d * list.count + j] = sum_taps(channel_sums + list.sources[j], i);
        }
      }
    }
    return sums;
  }

  void sum_channels(const BlockInput& input, int digit, int64_t images, int32_t* sums) const {
    for (int64_t n = 0; n < images; ++n) {
      for (int64_t h = 0; h < input.rows; ++h) {
        const uint8_t* row = input.digits + digit * input.plane + n * input.image_bytes + h * input.row_bytes;
        for (int64_t w = 0; w < p_.cols.in; ++w)
          *sums++ = Isa::sum_bytes(row + w * input.pixel_bytes, 4 * quads_);
      }
    }
  }

  double sum_taps(const int32_t* first, int64_t cls) const {
    const TapSpan& rows = p_.rows.classes[static_cast<size_t>(cls / col_classes_)];
    const TapSpan& cols = p_.cols.classes[static_cast<size_t>(cls % col_classes_)];
    int64_t sum = 0;
    if (classes_[cls].segment_count == 0) return 0.0;
    for (int64_t r = 0; r < rows.last - rows.first; ++r) {
      const int32_t* row = first + r * p_.rows.dilation * p_.cols.in;
      for (int64_t q = 0; q < cols.last - cols.first; ++q) sum += row[q * p_.cols.dilation];
    }
    return static_cast<double>(sum);
  }

  // ---- tiles ----

  template <int kVectors>
  void run_panel(std::integral_constant<int, kVectors>, const Block& block, const BlockInput& input,
                 const PixelList& list, const double* sums, const PanelSpan& panel,
                 double* channel_sums) const {
    if constexpr (kVectors > 1) {
      if (panel.lanes != kVectors * Isa::kWidth) {
        run_panel(std::integral_constant<int, kVectors - 1>{}, block, input, list, sums, panel, channel_sums);
        return;
      }
    }
    constexpr int kRows = Isa::kRows[kVectors];
    int64_t begin = 0;
    const int64_t first = block.first_image * p_.rows.out * p_.cols.out;
    const bool plain = !bias_ && panel.columns == kVectors * Isa::kWidth;
    for (int64_t i = 0; i < class_count_; begin = list.class_ends[i++]) {
      const Tile tile{
          block, input,      classes_[i], i,
          panel, list.count, plain,       p_.output_first + first * p_.output_stride + panel.begin};
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
    int64_t sums_stride;  ///< of the pixel sums of the second digit
    bool plain;           ///< whole vectors, no bias
    int64_t output;       ///< element of the block's first pixel and the panel's first column
  };

  template <int kRows, int kVectors>
  BITDIAL_INLINE void run_tile(const Tile& tile, const Pixel* pixels, int64_t count,
                               const double* sums) const {
    constexpr int kMiddle = (2 * kRows + 2) / 3;
    constexpr int kSmall = (kRows + 2) / 3;
    if (!fast_) {
      if (wide_) {
        exact_tile<kRows, kVectors, int64_t>(tile, pixels, count, sums);
      } else {
        exact_tile<kRows, kVectors, double>(tile, pixels, count, sums);
      }
    } else if (needs_sums_ || input_split_.count * weight_split_.count > 1) {
      digit_tile<kRows, kVectors>(tile, pixels, count, sums);
    } else if (count > kMiddle) {
      const bool whole = count == kRows && tile.plain;
      if (whole && p_.output.type == OutputType::kBFloat16) {
        byte_tile<kRows, kVectors, uint16_t>(tile, pixels, count);
      } else if (whole) {
        byte_tile<kRows, kVectors, float>(tile, pixels, count);
      } else {
        byte_tile<kRows, kVectors, void>(tile, pixels, count);
      }
    } else if (count > kSmall) {
      byte_tile<kMiddle, kVectors, void>(tile, pixels, count);
    } else {
      byte_tile<kSmall, kVectors, void>(tile, pixels, count);
    }
  }

  /// Reads stored tiles again: they are in the L1 cache, and the products' registers are free.
  template <int kVectors>
  __attribute__((noinline)) void sum_tiles(const Tile& tile, const Pixel* pixels, int64_t count,
                                           double* sums) const {
    const auto add = [&](const auto* output) {
      const auto row = [&](int64_t i) { return output + output_index(tile, pixels[i]); };
      add_channel_sums<Isa, kVectors>(row, count, tile.panel.columns, shifts_ + tile.panel.begin, sums,
                                      sums + padded_columns_);
    };
    if (p_.output.type == OutputType::kFloat32) {
      add(static_cast<const float*>(p_.output.data));
    } else {
      add(static_cast<const uint16_t*>(p_.output.data));
    }
  }

  template <int kRows>
  BITDIAL_INLINE void find_rows(const Tile& tile, int digit, const Pixel* pixels, int64_t count,
                                const uint8_t** rows) const {
    const uint8_t* digits = tile.input.digits + digit * tile.input.plane;
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) rows[i] = digits + pixels[i < count ? i : count - 1].input;
  }

  int64_t output_index(const Tile& tile, const Pixel& pixel) const {
    return tile.output + pixel.output * p_.output_stride;
  }

  /// One digit each, no sums over the pixel needed: float(S) * scale (+ bias) straight from the registers.
  /// `Out` is the output's type where all rows and columns are real and there is no bias, else void.
  template <int kRows, int kVectors, class Out>
  __attribute__((noinline)) void byte_tile(const Tile& tile, const Pixel* pixels, int64_t count) const {
    const uint8_t* rows[kRows];
    find_rows<kRows>(tile, 0, pixels, count, rows);
    if constexpr (!std::is_void_v<Out>) {
      // The output's cache lines arrive while the products are computed.
      for (int i = 0; i < kRows; ++i) {
        const Out* row = static_cast<const Out*>(p_.output.data) + output_index(tile, pixels[i]);
        for (int64_t j = 0; j < kVectors * Isa::kWidth; j += 64 / static_cast<int64_t>(sizeof(Out))) {
          __builtin_prefetch(row + j, 1);
        }
      }
    }
    typename Isa::Sum sums[kRows][kVectors];
    const int32_t* starts = starts_at(tile.class_index, 0, 0) + tile.panel.begin;
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const typename Isa::Sum start = Isa::load(starts + j * Isa::kWidth);
#pragma GCC unroll 32
      for (int i = 0; i < kRows; ++i) sums[i][j] = start;
    }
    multiply_tile<Isa, kRows, kVectors>(rows, panels_.data(tile.panel, 0), tile.cls.segments,
                                        tile.cls.segment_count, sums);
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) {
      typename Isa::Float values[kVectors];
      if constexpr (std::is_void_v<Out>) {
        if (i >= count) continue;
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) values[j] = Isa::to_float(sums[i][j]);
        store_row<kVectors>(values, output_index(tile, pixels[i]), tile.panel);
      } else {
        const float* scales = scales_ + tile.panel.begin;
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
          values[j] = Isa::multiply(Isa::to_float(sums[i][j]), Isa::load(scales + j * Isa::kWidth));
        }
        store_values<kVectors>(static_cast<Out*>(p_.output.data) + output_index(tile, pixels[i]), values,
                               kVectors * Isa::kWidth);
      }
    }
  }

  /// Several digits, or weights with a zero point that all columns share.
  template <int kRows, int kVectors>
  __attribute__((noinline)) void digit_tile(const Tile& tile, const Pixel* pixels, int64_t count,
                                            const double* pixel_sums) const {
    constexpr int64_t kLanes = int64_t{kVectors} * Isa::kWidth;
    alignas(64) int32_t parts[4][kRows * kLanes];
    for (int a = 0; a < input_split_.count; ++a) {
      const uint8_t* rows[kRows];
      find_rows<kRows>(tile, a, pixels, count, rows);
      for (int b = 0; b < weight_split_.count; ++b) {
        alignas(64) int32_t shifts[kRows] = {};
        for (int64_t i = 0; weight_zero_[b] != 0 && i < count; ++i) {
          shifts[i] = static_cast<int32_t>(-weight_zero_[b] *
                                           static_cast<int64_t>(pixel_sums[a * tile.sums_stride + i]));
        }
        multiply_part<kRows, kVectors>(
            rows, panels_.data(tile.panel, b), tile.cls.segments, tile.cls.segment_count,
            starts_at(tile.class_index, a, b) + tile.panel.begin, shifts, parts[a * weight_split_.count + b]);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      typename Isa::Float values[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        values[j] = combine_digits(parts[0] + i * kLanes + j * Isa::kWidth, kRows * kLanes);
      }
      store_row<kVectors>(values, output_index(tile, pixels[i]), tile.panel);
    }
  }

  /// float(sum over the pairs of digits), rounded once. Two parts are those of one operand's digits.
  BITDIAL_INLINE typename Isa::Float combine_digits(const int32_t* parts, int64_t stride) const {
    const int64_t pairs = int64_t{input_split_.count} * weight_split_.count;
    if (pairs == 1) return Isa::to_float(Isa::load(parts));
    if (pairs == 2) return Isa::to_float(Isa::load(parts), Isa::load(parts + stride));
    return Isa::to_float(Isa::load(parts), Isa::load(parts + stride), Isa::load(parts + 2 * stride),
                         Isa::load(parts + 3 * stride));
  }

  template <int kVectors>
  BITDIAL_INLINE void store_row(typename Isa::Float (&values)[kVectors], int64_t at,
                                const PanelSpan& panel) const {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      values[j] = Isa::multiply(values[j], Isa::load(scales_ + panel.begin + j * Isa::kWidth));
    }
    if (bias_) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        values[j] = Isa::add(values[j], Isa::load(bias_ + panel.begin + j * Isa::kWidth));
        if (p_.output.type == OutputType::kBFloat16) values[j] = Isa::quiet(values[j]);
      }
    }
    if (p_.output.type == OutputType::kFloat32) {
      store_values<kVectors>(static_cast<float*>(p_.output.data) + at, values, panel.columns);
    } else {
      store_values<kVectors>(static_cast<uint16_t*>(p_.output.data) + at, values, panel.columns);
    }
  }

  template <int kVectors, class T>
  BITDIAL_INLINE static void store_values(T* output, const typename Isa::Float (&values)[kVectors],
                                          int64_t columns) {
    if (columns == kVectors * Isa::kWidth) {
      if constexpr (kVectors % 2 == 0) {
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; j += 2)
          Isa::store_pair(output + j * Isa::kWidth, values[j], values[j + 1]);
        return;
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      Isa::store(output + j * Isa::kWidth, values[j],
                 std::min<int64_t>(Isa::kWidth, columns - j * Isa::kWidth));
    }
  }

  /// Any zero points and offsets, any length of the reduction.
  template <int kRows, int kVectors, class Number>
  __attribute__((noinline)) void exact_tile(const Tile& tile, const Pixel* pixels, int64_t count,
                                            const double* pixel_sums) const {
    constexpr int64_t kLanes = int64_t{kVectors} * Isa::kWidth;
    alignas(64) static constexpr int32_t kZeros[kLanes > kRows ? kLanes : kRows] = {};
    alignas(64) int32_t part[kRows * kLanes];
    alignas(64) Number total[kRows * kLanes] = {};
    const Segment* segments = tile.cls.segments;
    for (int a = 0; a < input_split_.count; ++a) {
      const uint8_t* rows[kRows];
      find_rows<kRows>(tile, a, pixels, count, rows);
      for (int b = 0; b < weight_split_.count; ++b) {
        const auto weight = static_cast<Number>(1 << (8 * (a + b)));
        for (int64_t s = 0; s < tile.cls.segment_count;) {
          int64_t quads = 0;
          const int64_t begin = s;
          while (s < tile.cls.segment_count && 4 * (quads + segments[s].quads) <= kExactProducts) {
            quads += segments[s++].quads;
          }
          multiply_part<kRows, kVectors>(rows, panels_.data(tile.panel, b), segments + begin, s - begin,
                                         kZeros, kZeros, part);
          for (int64_t i = 0; i < kRows * kLanes; ++i) total[i] += weight * static_cast<Number>(part[i]);
        }
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const double low = pixel_sums[i];
      const double high = input_split_.count == 2 ? pixel_sums[tile.sums_stride + i] : 0.0;
      finish_row(tile, total + i * kLanes, low + 256.0 * high, output_index(tile, pixels[i]),
                 tile.block.first_image + pixels[i].output / (p_.rows.out * p_.cols.out));
    }
  }

  /// Sums that start from starts[column] + shifts[row].
  template <int kRows, int kVectors>
  __attribute__((noinline)) static void multiply_part(const uint8_t* const* rows, const int8_t* panel,
                                                      const Segment* segments, int64_t count,
                                                      const int32_t* starts, const int32_t* shifts,
                                                      int32_t* part) {
    typename Isa::Sum sums[kRows][kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const typename Isa::Sum start = Isa::load(starts + j * Isa::kWidth);
#pragma GCC unroll 32
      for (int i = 0; i < kRows; ++i) sums[i][j] = Isa::add(start, Isa::set(shifts[i]));
    }
    multiply_tile<Isa, kRows, kVectors>(rows, panel, segments, count, sums);
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) Isa::store(part + (i * kVectors + j) * Isa::kWidth, sums[i][j]);
    }
  }

  /// Takes the zero points out of one row's sums and applies scales, offsets and bias.
  template <class Number>
  void finish_row(const Tile& tile, const Number* total, double pixel_sum, int64_t at, int64_t image) const {
    constexpr int64_t kLanes = int64_t{Isa::kMaxVectors} * Isa::kWidth;
    const PanelSpan& panel = tile.panel;
    const QuantParams& pa = p_.input.params[p_.input.params.size() == 1 ? 0 : static_cast<size_t>(image)];
    const auto zero_a = static_cast<Number>(input_split_.zero + pa.zero_code);
    const auto count = static_cast<Number>(tile.cls.products);
    const auto sum_a = static_cast<Number>(pixel_sum);
    const double* sums_low = class_sums_ + tile.class_index * padded_columns_ + panel.begin;
    const double* sums_high = sums_low + (weight_split_.count - 1) * class_count_ * padded_columns_;
    const double high = weight_split_.count == 2 ? 256.0 : 0.0;
    const double* zeros = weight_zeros_ + panel.begin;
    alignas(64) Number products[kLanes];
    alignas(64) Number own_b[kLanes];  // sums of the weights, relative to their zero points
    for (int64_t k = 0; k < panel.lanes; ++k) {
      const auto zero_b = static_cast<Number>(zeros[k]);
      own_b[k] = static_cast<Number>(sums_low[k] + high * sums_high[k]) - count * zero_b;
      products[k] = total[k] - zero_a * own_b[k] - zero_b * sum_a;
    }
    alignas(64) float values[kLanes] = {};
    const QuantParams* weight_params = weight_params_ + panel.begin;
    const bool all_offset = pa.offset != 0.0F;  // the common case, without a branch per column
    for (int64_t k = 0; all_offset && k < panel.lanes; ++k) {
      values[k] = with_offsets(pa, weight_params[k], static_cast<double>(products[k]),
                               static_cast<double>(sum_a - count * zero_a), static_cast<double>(own_b[k]),
                               static_cast<double>(count));
    }
    for (int64_t k = 0; !all_offset && k < panel.columns; ++k) {
      const QuantParams& pw = weight_params[k];
      if (pw.offset == 0.0F) {
        values[k] = static_cast<float>(products[k]) * (pa.scale * pw.scale);
      } else {
        values[k] = with_offsets(pa, pw, static_cast<double>(products[k]),
                                 static_cast<double>(sum_a - count * zero_a), static_cast<double>(own_b[k]),
                                 static_cast<double>(count));
      }
    }
    for (int64_t k = 0; bias_ && k < panel.columns; ++k) values[k] += bias_[panel.begin + k];
    for (int64_t k = 0; k < panel.columns; k += Isa::kWidth) {
      const int64_t columns = std::min<int64_t>(Isa::kWidth, panel.columns - k);
      if (p_.output.type == OutputType::kFloat32) {
        Isa::store(static_cast<float*>(p_.output.data) + at + k, Isa::load(values + k), columns);
      } else {
        Isa::store(static_cast<uint16_t*>(p_.output.data) + at + k, Isa::quiet(Isa::load(values + k)),
                   columns);
      }
    }
  }

  const GatherProblem& p_;
  Workspace workspace_;
  WeightPanels<Isa> panels_;
  DigitSplit input_split_, weight_split_;
  int64_t panel_count_, padded_columns_;
  PixelList shared_list_;
  bool fast_ = false, needs_sums_ = false, wide_ = false, in_place_ = false;
  int64_t quads_ = 0, tap_rows_ = 0, tap_cols_ = 0;
  int64_t col_classes_ = 0, class_count_ = 0, pixel_bytes_ = 0, row_bytes_ = 0;
  int64_t images_ = 1, block_rows_ = 1, row_blocks_ = 1, blocks_ = 1, splits_ = 1;
  Class* classes_ = nullptr;
  double* class_sums_ = nullptr;
  int32_t* starts_ = nullptr;
  float* scales_ = nullptr;
  double* weight_zeros_ = nullptr;
  QuantParams* weight_params_ = nullptr;
  int64_t input_zero_[2] = {0, 0};  ///< the zero points, digit by digit
  int64_t weight_zero_[2] = {0, 0};
  float* bias_ = nullptr;
  float* shifts_ = nullptr;
  double* channel_parts_ = nullptr;  ///< [block][sums, sums of squares][padded columns]
};

}  // namespace bitdial::kernels::vector
