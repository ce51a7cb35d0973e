#pragma once

#include <cstdint>

#include "bitdial/kernels/vector/tile.h"

// The sums of Output::sums over stored values that are still in the L1 cache.
namespace bitdial::kernels::vector {

/// Rows that one float32 sum may cover.
inline constexpr int64_t kSumRows = 32;

/// Adds d = row(i)[k] - shift[k] and d * d of up to kSumRows rows to sums[k] and squares[k], k in [0,
/// columns). `shift` and both sums have room for whole vectors. Even and odd rows are summed apart: twice as
/// many additions are under way.
template <class Isa, int kVectors, class Row>
BITDIAL_INLINE void add_channel_sums(const Row& row, int64_t count, int64_t columns, const float* shift,
                                     double* sums, double* squares) {
  using Float = typename Isa::Float;
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    const int64_t k = j * Isa::kWidth;
    const Float shifts = Isa::load(shift + k);
    Float sum[2] = {Isa::zero_float(), Isa::zero_float()};
    Float square[2] = {Isa::zero_float(), Isa::zero_float()};
    const auto add = [&](int64_t i, int part) __attribute__((always_inline)) {
      const Float d = Isa::subtract(Isa::load_stored(row(i) + k, columns - k), shifts);
      sum[part] = Isa::add(sum[part], d);
      square[part] = Isa::multiply_add(d, d, square[part]);
    };
    int64_t i = 0;
    for (; i + 2 <= count; i += 2) {
      add(i, 0);
      add(i + 1, 1);
    }
    if (i < count) add(i, 0);
    Isa::add_to(sums + k, Isa::add(sum[0], sum[1]));
    Isa::add_to(squares + k, Isa::add(square[0], square[1]));
  }
}

/// The same over `pixels` neighbouring pixels of `channels` values each.
template <class Isa, class T>
void sum_pixels(const T* y, int64_t pixels, int64_t channels, const float* shift, double* sums,
                double* squares) {
  for (int64_t begin = 0; begin < pixels; begin += kSumRows) {
    const int64_t count = pixels - begin < kSumRows ? pixels - begin : kSumRows;
    for (int64_t k = 0; k < channels; k += Isa::kWidth) {
      const T* first = y + begin * channels + k;
      add_channel_sums<Isa, 1>([&](int64_t i) { return first + i * channels; }, count, channels - k,
                               shift + k, sums + k, squares + k);
    }
  }
}

}  // namespace bitdial::kernels::vector
