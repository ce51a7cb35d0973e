#pragma once

#include "bitdial/kernels/vector/gather.h"

// The tiles of a gathering convolution: products and epilogues.
namespace bitdial::kernels::vector {

template <class Isa>
template <int kRows, int kVectors, int kDigits, int kRun, class Out>
void Gather<Isa>::byte_tile(const Tile& tile, const Pixel* pixels, int64_t count) const {
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
#pragma GCC unroll 2
  for (int digit = kDigits - 1; digit >= 0; --digit) {
    const int32_t* starts = starts_at(tile.class_index, digit, 0) + tile.panel.begin;
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const typename Isa::Sum start = Isa::load(starts + j * Isa::kWidth);
#pragma GCC unroll 32
      for (int i = 0; i < kRows; ++i) {
        sums[i][j] = digit == kDigits - 1 ? start : Isa::add(Isa::times_256(sums[i][j]), start);
      }
    }
    std::conditional_t<(kRun > 1), RunRows<kRows, kRun>, ScatteredRows<kRows>> rows;
    find_rows(tile, digit, pixels, count, rows);
    multiply_tile<Isa, kRows, kVectors>(rows, tile.weights.digits[0], tile.cls.segments,
                                        tile.cls.segment_count, sums);
  }
  constexpr bool kInPairs = kVectors == 1 && !std::is_void_v<Out>;  // of rows
  static_assert(!kInPairs || kRows % 2 == 0);
#pragma GCC unroll 32
  for (int i = 0; i < kRows; i += kInPairs ? 2 : 1) {
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
      auto* output = static_cast<Out*>(p_.output.data);
      Out* row = output + output_index(tile, pixels[i]);
      if constexpr (kInPairs) {
        const typename Isa::Float next = Isa::multiply(Isa::to_float(sums[i + 1][0]), Isa::load(scales));
        Isa::store_rows(row, output + output_index(tile, pixels[i + 1]), values[0], next);
      } else {
        store_values<kVectors>(row, values, kVectors * Isa::kWidth);
      }
    }
  }
}

template <class Isa>
template <int kRows, int kVectors>
void Gather<Isa>::digit_tile(const Tile& tile, const Pixel* pixels, int64_t count,
                             const double* pixel_sums) const {
  constexpr int64_t kLanes = int64_t{kVectors} * Isa::kWidth;
  alignas(64) int32_t parts[4][kRows * kLanes];
  for (int a = 0; a < input_split_.count; ++a) {
    ScatteredRows<kRows> rows;
    find_rows(tile, a, pixels, count, rows);
    for (int b = 0; b < weight_split_.count; ++b) {
      alignas(64) int32_t shifts[kRows] = {};
      for (int64_t i = 0; weight_zero_[b] != 0 && i < count; ++i) {
        shifts[i] = static_cast<int32_t>(-weight_zero_[b] *
                                         static_cast<int64_t>(pixel_sums[a * tile.sums_stride + i]));
      }
      multiply_part<kRows, kVectors>(rows, tile.weights.digits[b], tile.cls.segments, tile.cls.segment_count,
                                     starts_at(tile.class_index, a, b) + tile.panel.begin, shifts,
                                     parts[a * weight_split_.count + b]);
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

template <class Isa>
BITDIAL_INLINE typename Isa::Float Gather<Isa>::combine_digits(const int32_t* parts, int64_t stride) const {
  const int64_t pairs = int64_t{input_split_.count} * weight_split_.count;
  if (pairs == 1) return Isa::to_float(Isa::load(parts));
  if (pairs == 2) return Isa::to_float(Isa::load(parts), Isa::load(parts + stride));
  return Isa::to_float(Isa::load(parts), Isa::load(parts + stride), Isa::load(parts + 2 * stride),
                       Isa::load(parts + 3 * stride));
}

template <class Isa>
template <int kVectors>
BITDIAL_INLINE void Gather<Isa>::store_row(typename Isa::Float (&values)[kVectors], int64_t at,
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

template <class Isa>
template <int kVectors, class T>
BITDIAL_INLINE void Gather<Isa>::store_values(T* output, const typename Isa::Float (&values)[kVectors],
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

template <class Isa>
template <int kRows, int kVectors, class Number>
void Gather<Isa>::exact_tile(const Tile& tile, const Pixel* pixels, int64_t count,
                             const double* pixel_sums) const {
  constexpr int64_t kLanes = int64_t{kVectors} * Isa::kWidth;
  alignas(64) static constexpr int32_t kZeros[kLanes > kRows ? kLanes : kRows] = {};
  alignas(64) int32_t part[kRows * kLanes];
  alignas(64) Number total[kRows * kLanes] = {};
  const Segment* segments = tile.cls.segments;
  for (int a = 0; a < input_split_.count; ++a) {
    ScatteredRows<kRows> rows;
    find_rows(tile, a, pixels, count, rows);
    for (int b = 0; b < weight_split_.count; ++b) {
      const auto weight = static_cast<Number>(1 << (8 * (a + b)));
      for (int64_t s = 0; s < tile.cls.segment_count;) {
        int64_t quads = 0;
        const int64_t begin = s;
        while (s < tile.cls.segment_count && 4 * (quads + segments[s].quads) <= kExactProducts) {
          quads += segments[s++].quads;
        }
        multiply_part<kRows, kVectors>(rows, tile.weights.digits[b], segments + begin, s - begin, kZeros,
                                       kZeros, part);
        for (int64_t i = 0; i < kRows * kLanes; ++i) total[i] += weight * static_cast<Number>(part[i]);
      }
    }
  }
  double sums[kRows];
  for (int64_t i = 0; i < count; ++i) {
    sums[i] = pixel_sums[i] + (input_split_.count == 2 ? 256.0 * pixel_sums[tile.sums_stride + i] : 0.0);
  }
  if constexpr (std::is_same_v<Number, double>) {
    if (terms_.scales != nullptr) return finish_offset_rows(tile, total, kLanes, pixels, count, sums);
  }
  for (int64_t i = 0; i < count; ++i) {
    finish_row(tile, total + i * kLanes, sums[i], output_index(tile, pixels[i]),
               tile.block.first_image + pixels[i].output / (p_.rows.out * p_.cols.out));
  }
}

template <class Isa>
template <int kRows, int kVectors>
void Gather<Isa>::multiply_part(const ScatteredRows<kRows>& rows, const int8_t* panel,
                                const Segment* segments, int64_t count, const int32_t* starts,
                                const int32_t* shifts, int32_t* part) {
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

template <class Isa>
template <class Number>
void Gather<Isa>::finish_row(const Tile& tile, const Number* total, double pixel_sum, int64_t at,
                             int64_t image) const {
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
      values[k] =
          with_offsets(pa, pw, static_cast<double>(products[k]), static_cast<double>(sum_a - count * zero_a),
                       static_cast<double>(own_b[k]), static_cast<double>(count));
    }
  }
  for (int64_t k = 0; bias_ && k < panel.columns; ++k) values[k] += bias_[panel.begin + k];
  for (int64_t k = 0; k < panel.columns; k += Isa::kWidth) {
    store_finished(values + k, std::min<int64_t>(Isa::kWidth, panel.columns - k), at + k);
  }
}

template <class Isa>
void Gather<Isa>::finish_offset_rows(const Tile& tile, const double* totals, int64_t stride,
                                     const Pixel* pixels, int64_t count, const double* pixel_sums) const {
  const PanelSpan& panel = tile.panel;
  const auto zero_a = static_cast<double>(input_split_.zero + p_.input.params[0].zero_code);
  const double all_zero = static_cast<double>(tile.cls.products) * zero_a;
  for (int64_t first = 0; first < panel.columns; first += Isa::kWidth) {
    const int64_t column = panel.begin + first, of_class = tile.class_index * padded_columns_ + column;
    const double *zeros = weight_zeros_ + column, *scales = terms_.scales + column,
                 *weight_offsets = terms_.weight_offsets + column, *own_b = terms_.own_b + of_class,
                 *by_b = terms_.by_b + of_class, *constants = terms_.constants + of_class;
    const int64_t columns = std::min<int64_t>(Isa::kWidth, panel.columns - first);
    for (int64_t i = 0; i < count; ++i) {
      const double* total = totals + i * stride + first;
      const double pixel_sum = pixel_sums[i], own_a = pixel_sum - all_zero;
      alignas(64) float values[Isa::kWidth];
      for (int64_t k = 0; k < Isa::kWidth; ++k) {
        double value = scales[k] * (total[k] - zero_a * own_b[k] - zeros[k] * pixel_sum);
        value += weight_offsets[k] * own_a;
        value += by_b[k];
        value += constants[k];
        values[k] = static_cast<float>(value);
      }
      for (int64_t k = 0; bias_ && k < columns; ++k) values[k] += bias_[column + k];
      store_finished(values, columns, output_index(tile, pixels[i]) + first);
    }
  }
}

template <class Isa>
BITDIAL_INLINE void Gather<Isa>::store_finished(const float* values, int64_t columns, int64_t at) const {
  if (p_.output.type == OutputType::kFloat32) {
    Isa::store(static_cast<float*>(p_.output.data) + at, Isa::load(values), columns);
  } else {
    Isa::store(static_cast<uint16_t*>(p_.output.data) + at, Isa::quiet(Isa::load(values)), columns);
  }
}

}  // namespace bitdial::kernels::vector
