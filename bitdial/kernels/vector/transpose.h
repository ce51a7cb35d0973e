#pragma once

#include <immintrin.h>

#include <cstdint>

// Byte transposes of the layout passes. In an unnamed namespace: every translation unit compiles them with
// its own instruction-set flags.
namespace bitdial::kernels::vector {
namespace {

#if defined(__AVX512BW__)

inline constexpr int64_t kTransposeBytes = 64;

/// target[c * target_stride + i] = rows[i][c] ^ flip for 16 rows of 64 bytes.
inline void transpose_16_rows(const uint8_t* const* rows, uint8_t flip, uint8_t* target,
                              int64_t target_stride) {
  __m512i a[16];
  __m512i b[16];
  const __m512i flips = _mm512_set1_epi8(static_cast<char>(flip));
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_xor_si512(_mm512_loadu_si512(rows[i]), flips);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // rows i and i + 8
    b[2 * i] = _mm512_unpacklo_epi8(a[i], a[i + 8]);
    b[2 * i + 1] = _mm512_unpackhi_epi8(a[i], a[i + 8]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi8(b[i], b[i + 8]);
    a[2 * i + 1] = _mm512_unpackhi_epi8(b[i], b[i + 8]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_unpacklo_epi8(a[i], a[i + 8]);
    b[2 * i + 1] = _mm512_unpackhi_epi8(a[i], a[i + 8]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi8(b[i], b[i + 8]);
    a[2 * i + 1] = _mm512_unpackhi_epi8(b[i], b[i + 8]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    uint8_t* column = target + i * target_stride;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(column), _mm512_castsi512_si128(a[i]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(column + 16 * target_stride),
                     _mm512_extracti32x4_epi32(a[i], 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(column + 32 * target_stride),
                     _mm512_extracti32x4_epi32(a[i], 2));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(column + 48 * target_stride),
                     _mm512_extracti32x4_epi32(a[i], 3));
  }
}

/// target[4 * k + i] = rows[i][k] ^ flip for 4 rows of 64 bytes.
inline void interleave_4x64(const uint8_t* const* rows, uint8_t flip, int8_t* target) {
  const __m512i flips = _mm512_set1_epi8(static_cast<char>(flip));
  const __m512i a = _mm512_xor_si512(_mm512_loadu_si512(rows[0]), flips);
  const __m512i b = _mm512_xor_si512(_mm512_loadu_si512(rows[1]), flips);
  const __m512i c = _mm512_xor_si512(_mm512_loadu_si512(rows[2]), flips);
  const __m512i d = _mm512_xor_si512(_mm512_loadu_si512(rows[3]), flips);
  const __m512i ab_low = _mm512_unpacklo_epi8(a, b);
  const __m512i ab_high = _mm512_unpackhi_epi8(a, b);
  const __m512i cd_low = _mm512_unpacklo_epi8(c, d);
  const __m512i cd_high = _mm512_unpackhi_epi8(c, d);
  const __m512i q0 = _mm512_unpacklo_epi16(ab_low, cd_low);  // columns 0-3 of every 16
  const __m512i q1 = _mm512_unpackhi_epi16(ab_low, cd_low);
  const __m512i q2 = _mm512_unpacklo_epi16(ab_high, cd_high);
  const __m512i q3 = _mm512_unpackhi_epi16(ab_high, cd_high);
  const __m512i even01 = _mm512_shuffle_i32x4(q0, q1, 0x88);
  const __m512i odd01 = _mm512_shuffle_i32x4(q0, q1, 0xDD);
  const __m512i even23 = _mm512_shuffle_i32x4(q2, q3, 0x88);
  const __m512i odd23 = _mm512_shuffle_i32x4(q2, q3, 0xDD);
  _mm512_storeu_si512(target, _mm512_shuffle_i32x4(even01, even23, 0x88));
  _mm512_storeu_si512(target + 64, _mm512_shuffle_i32x4(odd01, odd23, 0x88));
  _mm512_storeu_si512(target + 128, _mm512_shuffle_i32x4(even01, even23, 0xDD));
  _mm512_storeu_si512(target + 192, _mm512_shuffle_i32x4(odd01, odd23, 0xDD));
}

#else

inline constexpr int64_t kTransposeBytes = 16;

/// target[c * target_stride + i] = rows[i][c] ^ flip for 16 rows of 16 bytes.
inline void transpose_16_rows(const uint8_t* const* rows, uint8_t flip, uint8_t* target,
                              int64_t target_stride) {
  __m128i a[16];
  __m128i b[16];
  const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
  for (int i = 0; i < 16; ++i) {
    a[i] = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i])), flips);
  }
  for (int stage = 0; stage < 4; ++stage) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  for (int i = 0; i < 16; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i * target_stride), a[i]);
  }
}

#endif

/// target[4 * k + i] = rows[i][k] ^ flip for 4 rows of 16 bytes.
inline void interleave_4x16(const uint8_t* const* rows, uint8_t flip, int8_t* target) {
  const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
  __m128i row[4];
  for (int i = 0; i < 4; ++i) {
    row[i] = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i])), flips);
  }
  const __m128i low01 = _mm_unpacklo_epi8(row[0], row[1]);
  const __m128i high01 = _mm_unpackhi_epi8(row[0], row[1]);
  const __m128i low23 = _mm_unpacklo_epi8(row[2], row[3]);
  const __m128i high23 = _mm_unpackhi_epi8(row[2], row[3]);
  auto* quads = reinterpret_cast<__m128i*>(target);
  _mm_storeu_si128(quads, _mm_unpacklo_epi16(low01, low23));
  _mm_storeu_si128(quads + 1, _mm_unpackhi_epi16(low01, low23));
  _mm_storeu_si128(quads + 2, _mm_unpacklo_epi16(high01, high23));
  _mm_storeu_si128(quads + 3, _mm_unpackhi_epi16(high01, high23));
}

/// target[4 * k + i] = rows[i][k] ^ flip for 4 rows of any length.
inline void interleave_4_rows(const uint8_t* const* rows, uint8_t flip, int64_t columns, int8_t* target) {
  int64_t k = 0;
#if defined(__AVX512BW__)
  for (; k + 64 <= columns; k += 64) {
    const uint8_t* part[4] = {rows[0] + k, rows[1] + k, rows[2] + k, rows[3] + k};
    interleave_4x64(part, flip, target + 4 * k);
  }
#endif
  for (; k + 16 <= columns; k += 16) {
    const uint8_t* part[4] = {rows[0] + k, rows[1] + k, rows[2] + k, rows[3] + k};
    interleave_4x16(part, flip, target + 4 * k);
  }
  for (; k < columns; ++k) {
    for (int i = 0; i < 4; ++i) target[4 * k + i] = static_cast<int8_t>(rows[i][k] ^ flip);
  }
}

}  // namespace
}  // namespace bitdial::kernels::vector
