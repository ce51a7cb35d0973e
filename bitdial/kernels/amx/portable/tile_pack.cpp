#include "bitdial/kernels/amx/portable/tile_pack.h"

#include <emmintrin.h>

#include <cstring>

#include "bitdial/kernels/conv2d_kernels.h"

namespace bitdial::kernels::amx {
namespace {

__m128i load(const void* source) { return _mm_loadu_si128(static_cast<const __m128i*>(source)); }
void store(void* target, __m128i value) { _mm_storeu_si128(static_cast<__m128i*>(target), value); }

/// Four vectors of 32-bit words transposed in place.
void transpose_4x4(__m128i (&rows)[4]) {
  const __m128i low01 = _mm_unpacklo_epi32(rows[0], rows[1]);
  const __m128i high01 = _mm_unpackhi_epi32(rows[0], rows[1]);
  const __m128i low23 = _mm_unpacklo_epi32(rows[2], rows[3]);
  const __m128i high23 = _mm_unpackhi_epi32(rows[2], rows[3]);
  rows[0] = _mm_unpacklo_epi64(low01, low23);
  rows[1] = _mm_unpackhi_epi64(low01, low23);
  rows[2] = _mm_unpacklo_epi64(high01, high23);
  rows[3] = _mm_unpackhi_epi64(high01, high23);
}

/// Four rows of 16 bytes -> 16 columns of 4 bytes, in order.
void interleave_4(const uint8_t* rows, int64_t stride, __m128i (&out)[4]) {
  const __m128i r0 = load(rows), r1 = load(rows + stride);
  const __m128i r2 = load(rows + 2 * stride), r3 = load(rows + 3 * stride);
  const __m128i low01 = _mm_unpacklo_epi8(r0, r1), high01 = _mm_unpackhi_epi8(r0, r1);
  const __m128i low23 = _mm_unpacklo_epi8(r2, r3), high23 = _mm_unpackhi_epi8(r2, r3);
  out[0] = _mm_unpacklo_epi16(low01, low23);
  out[1] = _mm_unpackhi_epi16(low01, low23);
  out[2] = _mm_unpacklo_epi16(high01, high23);
  out[3] = _mm_unpackhi_epi16(high01, high23);
}

}  // namespace

void split_codes(const void* codes, CodeType type, int64_t count, uint8_t* plane0, uint8_t* plane1) {
  if (code_size(type) == 1) {
    std::memcpy(plane0, codes, static_cast<size_t>(count));
    return;
  }
  const auto* source = static_cast<const uint8_t*>(codes);
  const __m128i low_byte = _mm_set1_epi16(255);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m128i a = load(source + 2 * i), b = load(source + 2 * i + 16);
    store(plane0 + i, _mm_packus_epi16(_mm_srli_epi16(a, 8), _mm_srli_epi16(b, 8)));
    store(plane1 + i, _mm_packus_epi16(_mm_and_si128(a, low_byte), _mm_and_si128(b, low_byte)));
  }
  for (; i < count; ++i) {
    plane1[i] = source[2 * i];
    plane0[i] = source[2 * i + 1];
  }
}

void interleave_rows(const uint8_t* rows, int64_t row_stride, uint8_t* tile) {
  for (int group = 0; group < 16; ++group, rows += 4 * row_stride, tile += 64) {
    __m128i out[4];
    interleave_4(rows, row_stride, out);
    for (int i = 0; i < 4; ++i) store(tile + 16 * i, out[i]);
  }
}

void transpose_words(const void* rows, int64_t row_stride, void* tile) {
  const auto* source = static_cast<const uint8_t*>(rows);
  auto* target = static_cast<uint8_t*>(tile);
  for (int row = 0; row < 16; row += 4) {
    for (int word = 0; word < 16; word += 4) {
      __m128i part[4];
      for (int i = 0; i < 4; ++i) part[i] = load(source + (row + i) * row_stride + 4 * word);
      transpose_4x4(part);
      for (int i = 0; i < 4; ++i) store(target + (word + i) * 64 + 4 * row, part[i]);
    }
  }
}

void transpose_bytes(const uint8_t* rows, int64_t row_stride, uint8_t* tile) {
  // 16 rows at a time: columns of 4 bytes, then 4 x 4 such words.
  for (int row = 0; row < 64; row += 16) {
    __m128i words[4][4];  // [group of 4 rows][4 columns each]
    for (int i = 0; i < 4; ++i) interleave_4(rows + (row + 4 * i) * row_stride, row_stride, words[i]);
    for (int quad = 0; quad < 4; ++quad) {
      __m128i part[4] = {words[0][quad], words[1][quad], words[2][quad], words[3][quad]};
      transpose_4x4(part);
      for (int i = 0; i < 4; ++i) store(tile + (4 * quad + i) * 64 + row, part[i]);
    }
  }
}

}  // namespace bitdial::kernels::amx
