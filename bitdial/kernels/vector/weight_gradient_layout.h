#pragma once

#include "bitdial/kernels/vector/weight_gradient.h"

// The layouts of x and dy, and the sums over the valid pixels of a tap.
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
void WeightGradient<Isa>::pack_dy_row(int64_t block, int64_t oh) {
  constexpr int64_t kTogether = 4;  // quads of images at a time: 16 streams through memory
  Workspace workspace;
  auto* staged = workspace.take<uint8_t>(dy_split_.count * 4 * padded_columns_);
  // Pixels of narrow tensors go several at a time: each cache line is read once.
  const bool dense =
      panel_count_ == 1 && p_.dy_pixel == p_.columns && p_.columns == padded_columns_ && 64 % p_.columns == 0;
  const int64_t step = dense ? std::min<int64_t>(64 / p_.dy_pixel, p_.cols.out) : 1;
  for (int64_t begin = 0; begin < quads_; begin += kTogether) {
    for (int64_t ow = 0; ow < p_.cols.out; ow += step) {
      const int64_t pixel = (block * p_.rows.out + oh) * p_.cols.out + ow;
      for (int64_t quad = begin; quad < std::min(begin + kTogether, quads_); ++quad) {
        const int64_t image = block * images_ + 4 * quad;
        if (dense && image + 4 <= p_.batch) {
          pack_dense_dy(image, oh * p_.cols.out + ow, std::min(step, p_.cols.out - ow), pixel, quad);
        } else {
          for (int64_t i = ow; i < std::min(ow + step, p_.cols.out); ++i) {
            pack_dy_quad(image, oh * p_.cols.out + i, pixel + i - ow, quad, staged);
          }
        }
      }
    }
  }
  sum_dy_row((block * p_.rows.out + oh) * p_.cols.out);
}

template <class Isa>
void WeightGradient<Isa>::pack_dense_dy(int64_t image, int64_t in_image, int64_t count, int64_t pixel,
                                        int64_t quad) const {
  alignas(64) uint8_t digits[2][4 * 64];
  alignas(64) int8_t packed[4 * 64];
  const int64_t columns = count * p_.dy_pixel;
  const int64_t stride = p_.rows.out * p_.cols.out * p_.dy_pixel;
  const int64_t first = p_.dy_first + image * stride + in_image * p_.dy_pixel;
  const bool direct = dy_split_.count == 1;
  for (int64_t n = 0; !direct && n < 4; ++n) {
    split_digits<Isa>(dy_split_, p_.dy.codes, first + n * stride, columns, digits[0] + n * 64, 4 * 64);
  }
  const uint8_t* codes = static_cast<const uint8_t*>(p_.dy.codes) + first;
  const uint8_t flip = direct ? dy_split_.flip[0] : uint8_t{0};
  constexpr int64_t kPiece = 4 * Isa::kWidth;
  for (int d = 0; d < dy_split_.count; ++d) {
    const uint8_t* rows[4];
    for (int n = 0; n < 4; ++n) rows[n] = direct ? codes + n * stride : digits[d] + n * 64;
    int8_t* target = panel_data(panels_[0], d) + (pixel * quads_ + quad) * p_.dy_pixel * 4;
    if (columns == 64 && count == 1) {
      interleave_4_rows(rows, flip, 64, target);
      continue;
    }
    interleave_4_rows(rows, flip, columns, packed);
    for (int64_t i = 0; i < count; ++i) {
      int8_t* pixel_target = target + i * quads_ * p_.dy_pixel * 4;
      for (int64_t j = 0; j < 4 * p_.dy_pixel; j += kPiece) {
        std::memcpy(pixel_target + j, packed + i * p_.dy_pixel * 4 + j, kPiece);
      }
    }
  }
}

template <class Isa>
void WeightGradient<Isa>::pack_dy_quad(int64_t image, int64_t in_image, int64_t pixel, int64_t quad,
                                       uint8_t* staged) const {
  const int64_t plane = 4 * padded_columns_;
  const int64_t stride = p_.rows.out * p_.cols.out * p_.dy_pixel;
  const int64_t first = p_.dy_first + image * stride + in_image * p_.dy_pixel;
  const bool direct = dy_split_.count == 1 && image + 4 <= p_.batch;
  if (!direct) {
    const bool whole = image + 4 <= p_.batch && p_.columns == padded_columns_;
    if (!whole) std::memset(staged, 0, static_cast<size_t>(dy_split_.count * plane));
    for (int64_t i = 0; i < std::min<int64_t>(4, p_.batch - image); ++i) {
      split_digits<Isa>(dy_split_, p_.dy.codes, first + i * stride, p_.columns, staged + i * padded_columns_,
                        plane);
    }
  }
  const uint8_t flip = direct ? dy_split_.flip[0] : uint8_t{0};
  const uint8_t* codes = static_cast<const uint8_t*>(p_.dy.codes) + first;
  for (int d = 0; d < dy_split_.count; ++d) {
    for (int64_t i = 0; i < panel_count_; ++i) {
      const PanelSpan& panel = panels_[i];
      const uint8_t* rows[4];
      for (int n = 0; n < 4; ++n) {
        rows[n] = panel.begin + (direct ? codes + n * stride : staged + d * plane + n * padded_columns_);
      }
      int8_t* target = panel_data(panel, d) + (pixel * quads_ + quad) * panel.lanes * 4;
      interleave_4_rows(rows, flip, panel.columns, target);
      if (panel.columns == panel.lanes) continue;
      std::memset(target + 4 * panel.columns, 0, static_cast<size_t>(4 * (panel.lanes - panel.columns)));
    }
  }
}

template <class Isa>
void WeightGradient<Isa>::sum_dy_row(int64_t first) const {
  constexpr uint8_t kOnes[4] = {1, 1, 1, 1};
  const typename Isa::Quad ones = Isa::broadcast(kOnes);
  for (int d = 0; d < dy_split_.count; ++d) {
    for (int64_t i = 0; i < panel_count_; ++i) {
      const PanelSpan& panel = panels_[i];
      for (int64_t pixel = first; pixel < first + p_.cols.out; ++pixel) {
        const int8_t* packed = panel_data(panel, d) + pixel * quads_ * panel.lanes * 4;
        int32_t* sums = dy_sums_ + (d * pixels_ + pixel) * padded_columns_ + panel.begin;
        for (int64_t k = 0; k < panel.lanes; k += Isa::kWidth) {
          typename Isa::Sum sum = Isa::zero();
          for (int64_t quad = 0; quad < quads_; ++quad) {
            sum = Isa::dot(sum, ones, Isa::load_panel(packed + (quad * panel.lanes + k) * 4));
          }
          Isa::store(sums + k, sum);
        }
      }
    }
  }
}

template <class Isa>
void WeightGradient<Isa>::sum_taps() {
  tap_dy_sums_ = workspace_.take<double>(taps_ * padded_columns_);
  tap_x_sums_ = workspace_.take<double>(taps_ * p_.channels);
  tap_counts_ = workspace_.take<int64_t>(taps_);
  if (needs_x_sums_) {
    x_sums_ = workspace_.take<double>(p_.rows.in * p_.cols.in * p_.channels);
    run_tasks(p_.rows.in, [this](int64_t h) { sum_x_row(h); });
  }
  run_tasks(taps_, [this](int64_t tap) { sum_tap(tap); });
}

template <class Isa>
void WeightGradient<Isa>::sum_x_row(int64_t h) {
  for (int64_t w = 0; w < p_.cols.in; ++w) {
    double* sums = x_sums_ + (h * p_.cols.in + w) * p_.channels;
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
}

template <class Isa>
void WeightGradient<Isa>::sum_tap(int64_t index) {
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

template <class Isa>
void WeightGradient<Isa>::add_dy_sums(int64_t pixel, double* total) const {
  for (int64_t block = 0; block < image_blocks_; ++block) {
    for (int d = 0; d < dy_split_.count; ++d) {
      const int64_t at = d * pixels_ + block * p_.rows.out * p_.cols.out + pixel;
      const int32_t* sums = dy_sums_ + at * padded_columns_;
      const double weight = d == 0 ? 1.0 : 256.0;
      for (int64_t k = 0; k < padded_columns_; ++k) total[k] += weight * sums[k];
    }
  }
}

}  // namespace bitdial::kernels::vector
