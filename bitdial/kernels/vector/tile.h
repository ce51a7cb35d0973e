#pragma once

#include <cstdint>
#include <cstring>

#include "bitdial/kernels/conv2d.h"
#include "bitdial/kernels/workspace.h"

// The micro-kernel that every direction runs on: an unsigned operand, 4 bytes of which are broadcast at a
// time, against packed signed panels. Included only by the translation units of the vector instruction sets,
// each of which has an `Isa` type in an unnamed namespace, so that no instantiation is shared between them.
// `Isa` provides
//
//   kWidth               int32 lanes of a vector;  kMaxVectors  vectors of the widest panel
//   kRows[v]             rows of a tile whose panels are v vectors wide
//   kRun[v]              rows per pointer in RunRows, three times which divides kRows[v]; 1: never used
//   Sum                  int32 lanes: zero(), set(x), load(p), store(p, v), add(v, v), times_256(v)
//   Panel load_panel(p)  4 * kWidth signed bytes
//   Panel load_wide(p)   the same from kWideBytes bytes; if these are more, widen(from, count, to) makes them
//   kVisitBytes          of dy, in wide panels, that a weight gradient stays with while all taps pass
//   Quad broadcast(p)    4 unsigned bytes;  load_quads(p)  4 for each lane
//   Sum dot(Sum, Quad, Panel)   adds the 4 products of each lane, exactly, modulo 2^32
//   int32_t sum_bytes(p, count)
//   Float                float lanes: load(p), multiply(v, v), add(v, v); store(p, v, count), and of two
//   whole vectors store_pair(p, v, v) and store_rows(p, p, v, v), to
//                        float* or uint16_t* (bfloat16, half to even), quiet(v): NaN as bfloat16 keeps it;
//   zero_float(), subtract(v, v), multiply_add(v, v, v) rounded once, add_to(double* p, v), and
//   load_stored(p, count)  what store wrote, the lanes behind `count` zero
//   Float to_float(s), to_float(d0, d1), to_float(d00, d01, d10, d11)   the value of int32 digits of base
//   256, d01 and
//                        d10 of weight 256, rounded once
namespace bitdial::kernels::vector {

#define BITDIAL_INLINE inline __attribute__((always_inline))

/// A stretch of the reduction: `quads` groups of 4 products, from `a` bytes behind each row's start and from
/// group `b` of the panel.
struct Segment {
  int64_t a = 0;
  int64_t b = 0;
  int64_t quads = 0;
};

/// The most products of an unsigned and a signed byte whose sum certainly fits int32: (2^31 - 1) / (255 *
/// 128).
inline constexpr int64_t kExactProducts = 65792;

/// The bytes that a panel of `bytes` signed bytes takes as multiply_tile reads it.
template <class Isa>
constexpr int64_t wide_bytes(int64_t bytes) {
  return bytes / (4 * Isa::kWidth) * Isa::kWideBytes;
}

/// A panel as multiply_tile reads it: widened once for all the tiles that meet it or, where the instruction
/// set takes bytes, as it is.
template <class Isa>
const int8_t* wide_panel(const int8_t* panel, int64_t bytes, Workspace& workspace) {
  if constexpr (Isa::kWideBytes > 4 * Isa::kWidth) {
    auto* wide = workspace.take<int8_t>(wide_bytes<Isa>(bytes));
    Isa::widen(panel, bytes, wide);
    return wide;
  } else {
    return panel;
  }
}

// Where the rows of a tile lie: at(i) is where row i goes on, next() moves all by 4 bytes, from(bytes) is a
// copy that begins elsewhere.

/// Anywhere, a pointer each.
template <int kRows>
struct ScatteredRows {
  const uint8_t* first[kRows];
  int64_t behind = 0;

  BITDIAL_INLINE ScatteredRows from(int64_t bytes) const {
    ScatteredRows rows;
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) rows.first[i] = first[i] + bytes;
    return rows;
  }
  BITDIAL_INLINE const uint8_t* at(int i) const { return first[i] + behind; }
  BITDIAL_INLINE void next() { behind += 4; }
};

/// In runs of `kRun` rows, `stride` bytes apart: fewer pointers than a processor has registers, of which a
/// load takes two and scales one.
template <int kRows, int kRun>
struct RunRows {
  static_assert(kRun <= 8);
  const uint8_t* first[(kRows + kRun - 1) / kRun];
  int64_t stride = 0, stride3 = 0, stride5 = 0, stride7 = 0;

  BITDIAL_INLINE void set_stride(int64_t bytes) {
    stride = bytes;
    stride3 = 3 * bytes;
    stride5 = 5 * bytes;
    stride7 = 7 * bytes;
    // Else GCC computes addresses anew, with fewer registers and more instructions.
    __asm__("" : "+r"(stride3), "+r"(stride5), "+r"(stride7));
  }
  BITDIAL_INLINE RunRows from(int64_t bytes) const {
    RunRows rows = *this;
    for (const uint8_t*& run : rows.first) run += bytes;
    return rows;
  }
  BITDIAL_INLINE const uint8_t* at(int i) const {
    const uint8_t* run = first[i / kRun];
    switch (i % kRun) {
      case 3:
        return run + stride3;
      case 5:
        return run + stride5;
      case 6:
        return run + 2 * stride3;
      case 7:
        return run + stride7;
      default:
        return run + i % kRun * stride;
    }
  }
  BITDIAL_INLINE void next() {
#pragma GCC unroll 32
    for (const uint8_t*& run : first) {
      run += 4;
      __asm__("" : "+r"(run));
    }
  }
};

/// All of them kStride bytes apart.
template <int kStride>
struct EvenRows {
  const uint8_t* first = nullptr;

  BITDIAL_INLINE EvenRows from(int64_t bytes) const { return {first + bytes}; }
  BITDIAL_INLINE const uint8_t* at(int i) const { return first + i * kStride; }
  BITDIAL_INLINE void next() {
    first += 4;
    __asm__("" : "+r"(first));
  }
};

/// sums[i][j] += segments of row i times the panel, which is a wide_panel.
template <class Isa, int kRows, int kVectors, class Rows>
BITDIAL_INLINE void multiply_tile(const Rows& rows, const int8_t* panel, const Segment* segments,
                                  int64_t segment_count, typename Isa::Sum (&sums)[kRows][kVectors]) {
  constexpr int64_t kStep = int64_t{Isa::kWideBytes} * kVectors;
  for (int64_t s = 0; s < segment_count; ++s) {
    Rows a = rows.from(segments[s].a);
    const int8_t* b = panel + segments[s].b * kStep;
    for (const int8_t* end = b + segments[s].quads * kStep; b != end; b += kStep) {
      typename Isa::Panel lanes[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) lanes[j] = Isa::load_wide(b + Isa::kWideBytes * j);
#pragma GCC unroll 32
      for (int i = 0; i < kRows; ++i) {
        const typename Isa::Quad quad = Isa::broadcast(a.at(i));
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sums[i][j] = Isa::dot(sums[i][j], quad, lanes[j]);
      }
      a.next();
    }
  }
  // Ends the sums' live ranges here: else GCC 12 spills them inside the loop to make room for what follows
  // it.
#pragma GCC unroll 32
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) __asm__ volatile("" : "+v"(sums[i][j]));
  }
}

/// A panel covers `lanes` output columns from `begin` on; the last ones may be padding.
struct PanelSpan {
  int64_t begin = 0;
  int64_t lanes = 0;
  int64_t columns = 0;  ///< real ones
};

/// Cuts `columns` into panels as wide as the instruction set has, the rest rounded up to whole vectors.
template <class Isa>
int64_t cut_panels(int64_t columns, PanelSpan* panels) {
  constexpr int64_t kWidest = int64_t{Isa::kWidth} * Isa::kMaxVectors;
  int64_t count = 0;
  for (int64_t begin = 0; begin < columns; begin += kWidest) {
    const int64_t left = columns - begin < kWidest ? columns - begin : kWidest;
    panels[count++] = {begin, (left + Isa::kWidth - 1) / Isa::kWidth * Isa::kWidth, left};
  }
  return count;
}

template <class Isa>
int64_t panel_count(int64_t columns) {
  constexpr int64_t kWidest = int64_t{Isa::kWidth} * Isa::kMaxVectors;
  return (columns + kWidest - 1) / kWidest;
}

/// How codes become digits of one byte: value = 256 * digit[1] + digit[0] + constant, by flipping top bits.
/// The broadcast operand has unsigned digits, the panels signed ones.
struct DigitSplit {
  int count = 1;
  uint8_t flip[2] = {0, 0};
  int64_t zero = 0;  ///< the digits' value that stands for code 0
};

inline DigitSplit unsigned_digits(CodeType type) {
  switch (type) {
    case CodeType::kS8:
      return {1, {0x80, 0}, 128};
    case CodeType::kU8:
      return {1, {0, 0}, 0};
    case CodeType::kS16:
      return {2, {0, 0x80}, 32768};
    case CodeType::kU16:
      return {2, {0, 0}, 0};
  }
  return {};
}

inline DigitSplit signed_digits(CodeType type) {
  switch (type) {
    case CodeType::kS8:
      return {1, {0, 0}, 0};
    case CodeType::kU8:
      return {1, {0x80, 0}, -128};
    case CodeType::kS16:
      return {2, {0x80, 0}, -128};
    case CodeType::kU16:
      return {2, {0x80, 0x80}, -32896};
  }
  return {};
}

/// codes[0, count) -> digits; the planes lie `plane` bytes apart.
template <class Isa>
void split_digits(const DigitSplit& split, const void* codes, int64_t first, int64_t count, uint8_t* digits,
                  int64_t plane) {
  if (split.count == 1) {
    const uint8_t* source = static_cast<const uint8_t*>(codes) + first;
    const uint8_t flip = split.flip[0];
    for (int64_t i = 0; i < count; ++i) digits[i] = static_cast<uint8_t>(source[i] ^ flip);
    return;
  }
  const uint16_t* source = static_cast<const uint16_t*>(codes) + first;
  uint8_t* high = digits + plane;
  const uint8_t flip_low = split.flip[0];
  const uint8_t flip_high = split.flip[1];
  for (int64_t i = 0; i < count; ++i) digits[i] = static_cast<uint8_t>((source[i] & 0xFF) ^ flip_low);
  for (int64_t i = 0; i < count; ++i) high[i] = static_cast<uint8_t>((source[i] >> 8) ^ flip_high);
}

/// A result with real-valued zero points, in the order of conv2d.h.
BITDIAL_INLINE float with_offsets(const QuantParams& a, const QuantParams& b, double products, double sum_a,
                                  double sum_b, double count) {
  const double scale_a = a.scale;
  const double scale_b = b.scale;
  const double offset_a = a.offset;
  const double offset_b = b.offset;
  double value = scale_a * scale_b * products;
  value += scale_a * offset_b * sum_a;
  value += offset_a * scale_b * sum_b;
  value += count * offset_a * offset_b;
  return static_cast<float>(value);
}

}  // namespace bitdial::kernels::vector
