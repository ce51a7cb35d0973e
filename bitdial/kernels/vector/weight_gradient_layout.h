#pragma once

#include "bitdial/kernels/vector/weight_gradient.h"

// The layout of x, and the sums over the valid pixels of a tap.
namespace bitdial::kernels::vector {

template <class Isa>
void WeightGradient<Isa>::pack_x_row(int64_t block, int64_t h) {
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

template <class Isa>
void WeightGradient<Isa>::pack_x_columns(int64_t block, int64_t image, int64_t first, int64_t columns,
                                         uint8_t* target) const {
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
  if (direct) {
    for (int n = 0; n < 16; ++n) __builtin_prefetch(codes + n * p_.x_image + 4 * kTransposeBytes);
  }
  for (int d = 0; d < x_split_.count; ++d) {
    const uint8_t* rows[16];
    for (int n = 0; n < 16; ++n) rows[n] = direct ? codes + n * p_.x_image : staged[d] + n * kTransposeBytes;
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

template <class Isa>
void WeightGradient<Isa>::sum_taps() {
  tap_dy_sums_ = workspace_.take<double>(taps_ * padded_columns_);
  tap_x_sums_ = workspace_.take<double>(taps_ * p_.channels);
  tap_counts_ = workspace_.take<int64_t>(taps_);
  // The pixels of a row that a tap column meets serve all tap rows.
  const int64_t rows = tap_cols() * p_.rows.out;
  row_dy_sums_ = workspace_.take<double>(rows * padded_columns_);
  row_x_sums_ = workspace_.take<double>(needs_x_sums_ ? tap_cols() * p_.rows.in * p_.channels : 0);
  if (needs_x_sums_) run_tasks(p_.rows.in, [this](int64_t h) { sum_x_row(h); });
  run_tasks(rows, [this](int64_t row) { sum_dy_row(row / p_.rows.out, row % p_.rows.out); });
  run_tasks(taps_, [this](int64_t tap) { sum_tap(tap); });
}

template <class Isa>
void WeightGradient<Isa>::sum_x_row(int64_t h) {
  Workspace workspace;
  auto* pixels = workspace.take<double>(p_.cols.in * p_.channels);
  for (int64_t w = 0; w < p_.cols.in; ++w) {
    double* sums = pixels + w * p_.channels;
    std::fill_n(sums, p_.channels, 0.0);
    for (int d = 0; d < x_split_.count; ++d) {
      for (int64_t block = 0; block < image_blocks_; ++block) {
        const uint8_t* x = x_at(d, block, h, w);
        for (int64_t c = 0; c < p_.channels; ++c) {
          sums[c] += (d == 0 ? 1.0 : 256.0) * Isa::sum_bytes(x + c * images_, images_);
        }
      }
    }
  }
  for (int64_t col = 0; col < tap_cols(); ++col) {
    double* sums = row_x_sums_ + (col * p_.rows.in + h) * p_.channels;
    std::fill_n(sums, p_.channels, 0.0);
    for (int64_t ow = 0; ow < p_.cols.out; ++ow) {
      const int64_t w = input_of(p_.cols, ow, static_cast<int32_t>(col));
      for (int64_t c = 0; w >= 0 && c < p_.channels; ++c) sums[c] += pixels[w * p_.channels + c];
    }
  }
}

template <class Isa>
void WeightGradient<Isa>::sum_dy_row(int64_t col, int64_t oh) {
  double* total = row_dy_sums_ + (col * p_.rows.out + oh) * padded_columns_;
  std::fill_n(total, padded_columns_, 0.0);
  for (int64_t block = 0; block < image_blocks_; ++block) {
    for (int d = 0; d < dy_split_.count; ++d) {
      const double weight = d == 0 ? 1.0 : 256.0;
      for (int64_t ow = 0; ow < p_.cols.out; ++ow) {
        if (input_of(p_.cols, ow, static_cast<int32_t>(col)) < 0) continue;
        const int32_t* sums = dy_.sums(packed_dy_, d, (block * p_.rows.out + oh) * p_.cols.out + ow);
        for (int64_t k = 0; k < padded_columns_; ++k) total[k] += weight * sums[k];
      }
    }
  }
}

template <class Isa>
void WeightGradient<Isa>::sum_tap(int64_t index) {
  const Tap tap = tap_at(index);
  double* dy_sums = tap_dy_sums_ + index * padded_columns_;
  double* x_sums = tap_x_sums_ + index * p_.channels;
  std::fill_n(dy_sums, padded_columns_, 0.0);
  std::fill_n(x_sums, p_.channels, 0.0);
  int64_t rows = 0, columns = 0;
  for (int64_t ow = 0; ow < p_.cols.out; ++ow) columns += input_of(p_.cols, ow, tap.col) >= 0 ? 1 : 0;
  for (int64_t oh = 0; oh < p_.rows.out; ++oh) {
    const int64_t h = input_of(p_.rows, oh, tap.row);
    if (h < 0) continue;
    ++rows;
    const double* dy = row_dy_sums_ + (tap.col * p_.rows.out + oh) * padded_columns_;
    for (int64_t k = 0; k < padded_columns_; ++k) dy_sums[k] += dy[k];
    const double* x = row_x_sums_ + (tap.col * p_.rows.in + h) * p_.channels;
    for (int64_t c = 0; needs_x_sums_ && c < p_.channels; ++c) x_sums[c] += x[c];
  }
  tap_counts_[index] = rows * columns * p_.batch;
}

}  // namespace bitdial::kernels::vector
