#pragma once

#include <cstdint>
#include <cstring>

#include "bitdial/kernels/amx/block.h"
#include "bitdial/kernels/value.h"

/// BlockKernels over a tile type. Included by one source file per tile type; the unnamed namespace keeps each
/// instantiation to its own file and flags.
namespace bitdial::kernels::amx {
namespace {

/// Tiles 0..3 hold the sums, 4 and 5 rows, 6 and 7 columns: four loads feed four products.
template <class Tile, int kRowTiles, int kColumnTiles, bool kSignedA, bool kSignedB>
void multiply(const BlockGeometry& g, const uint8_t* a, const uint8_t* b, int64_t steps) {
  for (; steps > 0; --steps, a += g.a_step, b += g.b_step) {
    Tile::template load<4>(a, g.a_row);
    Tile::template load<6>(b, 64);
    if constexpr (kColumnTiles == 2) Tile::template load<7>(b + kTileBytes, 64);
    if constexpr (kRowTiles == 2) Tile::template load<5>(a + g.a_row_tile, g.a_row);
    Tile::template dot<0, 4, 6, kSignedA, kSignedB>();
    if constexpr (kColumnTiles == 2) Tile::template dot<1, 4, 7, kSignedA, kSignedB>();
    if constexpr (kRowTiles == 2) Tile::template dot<2, 5, 6, kSignedA, kSignedB>();
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) Tile::template dot<3, 5, 7, kSignedA, kSignedB>();
  }
}

template <class Tile, int kRowTiles, int kColumnTiles>
void multiply_planes(const DigitPlan& digits, int plane_a, int plane_b, const BlockGeometry& g,
                     const Run* begin, const Run* end) {
  const bool signed_a = digits.a.is_signed[plane_a];
  const bool signed_b = digits.b.is_signed[plane_b];
  const auto kernel = signed_a ? (signed_b ? multiply<Tile, kRowTiles, kColumnTiles, true, true>
                                           : multiply<Tile, kRowTiles, kColumnTiles, true, false>)
                               : (signed_b ? multiply<Tile, kRowTiles, kColumnTiles, false, true>
                                           : multiply<Tile, kRowTiles, kColumnTiles, false, false>);
  for (const Run* run = begin; run != end; ++run) {
    kernel(g, run->a + plane_a * g.a_plane, run->b + plane_b * g.b_plane, run->steps);
  }
}

template <class Tile, int kRowTiles, int kColumnTiles>
void load_sums(const int32_t* sums, bool from_zero) {
  if (from_zero) {
    Tile::template zero<0>();
    if constexpr (kColumnTiles == 2) Tile::template zero<1>();
    if constexpr (kRowTiles == 2) Tile::template zero<2>();
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) Tile::template zero<3>();
  } else {
    Tile::template load<0>(sums, 64);
    if constexpr (kColumnTiles == 2) Tile::template load<1>(sums + 256, 64);
    if constexpr (kRowTiles == 2) Tile::template load<2>(sums + 512, 64);
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) Tile::template load<3>(sums + 768, 64);
  }
}

template <class Tile, int kRowTiles, int kColumnTiles>
void store_sums(int32_t* sums) {
  Tile::template store<0>(sums, 64);
  if constexpr (kColumnTiles == 2) Tile::template store<1>(sums + 256, 64);
  if constexpr (kRowTiles == 2) Tile::template store<2>(sums + 512, 64);
  if constexpr (kRowTiles == 2 && kColumnTiles == 2) Tile::template store<3>(sums + 768, 64);
}

/// The value of sums [first, first + kCount) in int64.
template <int kCount>
void load_totals(const DigitPlan& digits, const BlockSums& sums, int64_t first, int64_t* totals) {
  for (int i = 0; i < kCount; ++i) totals[i] = sums.has_wide ? sums.wide[first + i] : 0;
  if (sums.steps == 0) return;
  for (int c = 0; c < digits.classes; ++c) {
    const int32_t* narrow = sums.narrow + c * kBlockSums + first;
    const int64_t weight = int64_t{1} << digits.by_class[c].shift;
    for (int i = 0; i < kCount; ++i) totals[i] += narrow[i] * weight;
  }
}

void flush(const DigitPlan& digits, BlockSums& sums) {
  for (int64_t i = 0; i < kBlockSums; i += 16) load_totals<16>(digits, sums, i, sums.wide + i);
  sums.has_wide = true;
  sums.steps = 0;
}

template <class Tile, int kRowTiles, int kColumnTiles>
void accumulate_tiles(const DigitPlan& digits, const BlockGeometry& g, const Run* runs, int64_t run_count,
                      BlockSums& sums) {
  const Run* const end = runs + run_count;
  while (runs != end) {
    if (sums.steps + runs->steps > digits.max_steps) flush(digits, sums);
    const Run* next = runs;
    int64_t steps = sums.steps;
    while (next != end && steps + next->steps <= digits.max_steps) steps += (next++)->steps;
    for (int c = 0; c < digits.classes; ++c) {
      const DigitClass& digit = digits.by_class[c];
      load_sums<Tile, kRowTiles, kColumnTiles>(sums.narrow + c * kBlockSums, sums.steps == 0);
      for (int p = 0; p < digit.pairs; ++p) {
        multiply_planes<Tile, kRowTiles, kColumnTiles>(digits, digit.plane_a[p], digit.plane_b[p], g, runs,
                                                       next);
      }
      store_sums<Tile, kRowTiles, kColumnTiles>(sums.narrow + c * kBlockSums);
    }
    sums.steps = steps;
    runs = next;
  }
}

template <class Tile>
void accumulate(const DigitPlan& digits, const BlockGeometry& g, const Run* runs, int64_t run_count,
                BlockSums& sums) {
  const auto kernel =
      g.row_tiles == 2 ? (g.column_tiles == 2 ? accumulate_tiles<Tile, 2, 2> : accumulate_tiles<Tile, 2, 1>)
                       : (g.column_tiles == 2 ? accumulate_tiles<Tile, 1, 2> : accumulate_tiles<Tile, 1, 1>);
  kernel(digits, g, runs, run_count, sums);
}

// ---- epilogue: 16 columns at a time, loops of constant length for the compiler to vectorise ----

struct Columns16 {
  int64_t count;
  const float* scale;
  const float* offset;
  const int64_t* zero_code;
  const float* bias;
};

/// float(S) * scale, the order of operations of conv2d.h.
void scale_codes(const DigitPlan& digits, const BlockSums& sums, int64_t first, const OutputRow& row,
                 const Columns16& columns, float* values) {
  if (digits.classes == 1 && !sums.has_wide && sums.steps > 0) {
    const int32_t* narrow = sums.narrow + first;
    for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(narrow[i]) * (row.scale * columns.scale[i]);
    return;
  }
  int64_t totals[16];
  load_totals<16>(digits, sums, first, totals);
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(totals[i]) * (row.scale * columns.scale[i]);
}

/// The same with zero codes and real-valued offsets.
void scale_corrected(const DigitPlan& digits, const BlockSums& sums, int64_t first, const OutputRow& row,
                     const Columns16& columns, const int64_t* column_sums, float* values) {
  int64_t totals[16];
  load_totals<16>(digits, sums, first, totals);
  for (int64_t i = 0; i < columns.count; ++i) {
    values[i] = corrected_value(totals[i], row.code_sum, column_sums[i], row.count,
                                {row.scale, row.offset, row.zero_code},
                                {columns.scale[i], columns.offset[i], columns.zero_code[i]});
  }
}

/// Rounds half to even; a NaN stays one.
uint16_t to_bfloat16(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFU) > 0x7F800000U ? (bits >> 16) | 0x40U : rounded);
}

void store_values(const float* values, int64_t count, OutputType type, void* output, int64_t column) {
  if (type == OutputType::kFloat32) {
    float* target = static_cast<float*>(output) + column;
    if (count == 16) {
      std::memcpy(target, values, 16 * sizeof(float));
    } else {
      std::memcpy(target, values, static_cast<size_t>(count) * sizeof(float));
    }
    return;
  }
  uint16_t rounded[16];
  for (int i = 0; i < 16; ++i) rounded[i] = to_bfloat16(values[i]);
  uint16_t* target = static_cast<uint16_t*>(output) + column;
  if (count == 16) {
    std::memcpy(target, rounded, sizeof rounded);
  } else {
    std::memcpy(target, rounded, static_cast<size_t>(count) * sizeof(uint16_t));
  }
}

void store_rows(const DigitPlan& digits, const BlockSums& sums, const OutputRow* rows, int64_t row_count,
                const OutputColumns& columns) {
  for (int64_t r = 0; r < row_count; ++r) {
    const OutputRow& row = rows[r];
    if (row.output == nullptr) continue;
    for (int64_t column = 0; column < columns.count; column += 16) {
      const int64_t first = r / 16 * 512 + column / 16 * 256 + r % 16 * 16;
      const int64_t left = columns.count - column;
      const Columns16 part{left < 16 ? left : 16, columns.scale + column, columns.offset + column,
                           columns.zero_code + column, columns.bias ? columns.bias + column : nullptr};
      float values[16] = {};
      if (columns.corrected) {
        scale_corrected(digits, sums, first, row, part, row.column_sums + column, values);
      } else {
        scale_codes(digits, sums, first, row, part, values);
      }
      if (part.bias) {
        for (int i = 0; i < 16; ++i) values[i] += part.bias[i];
      }
      store_values(values, part.count, columns.type, row.output, column);
    }
  }
}

void collect(const DigitPlan& digits, const BlockSums& sums, int64_t* totals) {
  for (int64_t i = 0; i < kBlockSums; i += 16) load_totals<16>(digits, sums, i, totals + i);
}

template <class Tile>
constexpr BlockKernels kBlockKernels = {Tile::configure, Tile::release, accumulate<Tile>, store_rows,
                                        collect};

}  // namespace
}  // namespace bitdial::kernels::amx
