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
  const int64_t a_row = g.a_row, a_row_tile = g.a_row_tile, a_step = g.a_step, b_step = g.b_step;
  for (; steps > 0; --steps, a += a_step, b += b_step) {
    Tile::template load<4>(a, a_row);
    Tile::template load<6>(b, 64);
    if constexpr (kColumnTiles == 2) Tile::template load<7>(b + kTileBytes, 64);
    if constexpr (kRowTiles == 2) Tile::template load<5>(a + a_row_tile, a_row);
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

// ---- epilogue: 16 columns at a time, as one vector of the compiler (lowered where the registers are
// narrower) ----

typedef float Float16 __attribute__((vector_size(64)));
typedef int32_t Int32x16 __attribute__((vector_size(64)));
typedef uint32_t Uint32x16 __attribute__((vector_size(64)));
typedef uint16_t Uint16x16 __attribute__((vector_size(32)));

template <class Vector>
void load(Vector& vector, const void* source) {
  std::memcpy(&vector, source, sizeof(Vector));
}

/// Stores the first `count` elements.
template <class Vector>
void store(const Vector& vector, int64_t count, void* target) {
  if (count == 16) {
    std::memcpy(target, &vector, sizeof(Vector));
  } else {
    std::memcpy(target, &vector, static_cast<size_t>(count) * (sizeof(Vector) / 16));
  }
}

struct Columns16 {
  int64_t count;
  const float* scale;
  const float* offset;
  const int64_t* zero_code;
  const float* bias;
};

/// float(S) * scale, the order of operations of conv2d.h.
void scale_codes(const DigitPlan& digits, const BlockSums& sums, int64_t first, const OutputRow& row,
                 const Columns16& columns, Float16& values) {
  Float16 scale;
  load(scale, columns.scale);
  scale *= row.scale;
  if (digits.classes == 1 && !sums.has_wide && sums.steps > 0) {
    Int32x16 narrow;
    load(narrow, sums.narrow + first);
    values = __builtin_convertvector(narrow, Float16) * scale;
    return;
  }
  alignas(64) int64_t totals[16];
  alignas(64) float exact[16];
  load_totals<16>(digits, sums, first, totals);
  for (int i = 0; i < 16; ++i) exact[i] = static_cast<float>(totals[i]);
  load(values, exact);
  values *= scale;
}

/// The same with zero codes and real-valued offsets.
void scale_corrected(const DigitPlan& digits, const BlockSums& sums, int64_t first, const OutputRow& row,
                     const Columns16& columns, const int64_t* column_sums, Float16& values) {
  alignas(64) int64_t totals[16];
  alignas(64) float corrected[16];
  load_totals<16>(digits, sums, first, totals);
  for (int i = 0; i < 16; ++i) {
    corrected[i] = corrected_value(totals[i], row.code_sum, column_sums[i], row.count,
                                   {row.scale, row.offset, row.zero_code},
                                   {columns.scale[i], columns.offset[i], columns.zero_code[i]});
  }
  load(values, corrected);
}

/// Rounds half to even; a NaN stays one.
void to_bfloat16(const Float16& values, Uint16x16& rounded) {
  Uint32x16 bits;
  load(bits, &values);
  const Uint32x16 nearest = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  const Uint32x16 quiet = (bits >> 16) | 0x40U;
  rounded = __builtin_convertvector(values == values ? nearest : quiet, Uint16x16);
}

void store_values(const Float16& values, int64_t count, OutputType type, void* output, int64_t column) {
  if (type == OutputType::kFloat32) {
    store(values, count, static_cast<float*>(output) + column);
    return;
  }
  Uint16x16 rounded;
  to_bfloat16(values, rounded);
  store(rounded, count, static_cast<uint16_t*>(output) + column);
}

/// The common case, kept short: it costs as much as a few steps of the block. Sums of one digit class in
/// int32, no corrections, whole tiles of columns.
template <OutputType kType, bool kBias>
void store_plain_rows(const BlockSums& sums, const OutputRow* rows, int64_t row_count,
                      const OutputColumns& columns) {
  constexpr int64_t kBytes = kType == OutputType::kFloat32 ? 4 : 2;
  for (int64_t r = 0; r < row_count; ++r) {
    if (rows[r].output == nullptr) continue;
    const int32_t* const narrow = sums.narrow + r / 16 * 512 + r % 16 * 16;
    auto* const output = static_cast<uint8_t*>(rows[r].output);
    const float row_scale = rows[r].scale;
    for (int64_t column = 0; column < columns.count; column += 16) {
      Int32x16 codes;
      Float16 scale;
      load(codes, narrow + column * 16);
      load(scale, columns.scale + column);
      Float16 values = __builtin_convertvector(codes, Float16) * (row_scale * scale);
      if constexpr (kBias) {
        Float16 bias;
        load(bias, columns.bias + column);
        values += bias;
      }
      if constexpr (kType == OutputType::kFloat32) {
        std::memcpy(output + column * kBytes, &values, sizeof values);
      } else {
        Uint16x16 rounded;
        to_bfloat16(values, rounded);
        std::memcpy(output + column * kBytes, &rounded, sizeof rounded);
      }
    }
  }
}

bool is_plain(const DigitPlan& digits, const BlockSums& sums, const OutputColumns& columns) {
  return digits.classes == 1 && !sums.has_wide && sums.steps > 0 && !columns.corrected &&
         columns.count % 16 == 0;
}

void store_rows(const DigitPlan& digits, const BlockSums& sums, const OutputRow* rows, int64_t row_count,
                const OutputColumns& columns) {
  if (is_plain(digits, sums, columns)) {
    const bool wide = columns.type == OutputType::kFloat32;
    const auto kernel = columns.bias ? (wide ? store_plain_rows<OutputType::kFloat32, true>
                                             : store_plain_rows<OutputType::kBFloat16, true>)
                                     : (wide ? store_plain_rows<OutputType::kFloat32, false>
                                             : store_plain_rows<OutputType::kBFloat16, false>);
    return kernel(sums, rows, row_count, columns);
  }
  for (int64_t column = 0; column < columns.count; column += 16) {
    const int64_t left = columns.count - column;
    const Columns16 part{left < 16 ? left : 16, columns.scale + column, columns.offset + column,
                         columns.zero_code + column, columns.bias ? columns.bias + column : nullptr};
    for (int64_t r = 0; r < row_count; ++r) {
      const OutputRow& row = rows[r];
      if (row.output == nullptr) continue;
      const int64_t first = r / 16 * 512 + column / 16 * 256 + r % 16 * 16;
      Float16 values;
      if (columns.corrected) {
        scale_corrected(digits, sums, first, row, part, row.column_sums + column, values);
      } else {
        scale_codes(digits, sums, first, row, part, values);
      }
      if (part.bias) {
        Float16 bias;
        load(bias, part.bias);
        values += bias;
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
