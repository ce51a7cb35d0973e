#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// What AVX2 and AVX-VNNI share of the `Isa` interface of tile.h: everything but the dot product.
namespace bitdial::kernels::vector {
namespace {

struct AvxBase {
  static constexpr int kWidth = 8;

  using Sum = __m256i;
  using Float = __m256;

  static Sum zero() { return _mm256_setzero_si256(); }
  static Sum load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store(int32_t* p, Sum v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static __m256i load_bytes(const int8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m256i broadcast_bytes(const uint8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, sizeof(quad));
    return _mm256_set1_epi32(quad);
  }

  static Sum set(int32_t value) { return _mm256_set1_epi32(value); }
  static Sum add(Sum a, Sum b) { return _mm256_add_epi32(a, b); }
  static Sum times_256(Sum a) { return _mm256_slli_epi32(a, 8); }

  static int32_t sum_bytes(const uint8_t* p, int64_t count) {
    __m256i sums = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i));
      sums = _mm256_add_epi64(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    }
    alignas(32) int64_t lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums);
    int64_t total = lanes[0] + lanes[1] + lanes[2] + lanes[3];
    for (; i < count; ++i) total += p[i];
    return static_cast<int32_t>(total);
  }

  static __m256d low(Sum v) { return _mm256_cvtepi32_pd(_mm256_castsi256_si128(v)); }
  static __m256d high(Sum v) { return _mm256_cvtepi32_pd(_mm256_extracti128_si256(v, 1)); }
  static Float join(__m256d low, __m256d high) {
    return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low));
  }
  static Float to_float(Sum d0, Sum d1) {
    const __m256d base = _mm256_set1_pd(256.0);
    return join(_mm256_fmadd_pd(low(d1), base, low(d0)), _mm256_fmadd_pd(high(d1), base, high(d0)));
  }
  static Float to_float(Sum d00, Sum d01, Sum d10, Sum d11) {
    const __m256d base = _mm256_set1_pd(256.0);
    const auto combine = [&](__m256d a, __m256d b, __m256d c, __m256d d) {
      return _mm256_fmadd_pd(_mm256_fmadd_pd(d, base, _mm256_add_pd(b, c)), base, a);
    };
    return join(combine(low(d00), low(d01), low(d10), low(d11)),
                combine(high(d00), high(d01), high(d10), high(d11)));
  }
  template <class T>
  static void store_pair(T* p, Float a, Float b) {
    store(p, a, kWidth);
    store(p + kWidth, b, kWidth);
  }

  template <class T>
  static void store_rows(T* p, T* q, Float a, Float b) {
    store(p, a, kWidth);
    store(q, b, kWidth);
  }

  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static Float to_float(Sum v) { return _mm256_cvtepi32_ps(v); }
  static Float multiply(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float zero_float() { return _mm256_setzero_ps(); }
  static Float subtract(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static void add_to(double* p, Float v) {
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
    _mm256_storeu_pd(p, _mm256_add_pd(_mm256_loadu_pd(p), low));
    _mm256_storeu_pd(p + 4, _mm256_add_pd(_mm256_loadu_pd(p + 4), high));
  }
  static Float load_stored(const float* p, int64_t count) {
    if (count >= kWidth) return _mm256_loadu_ps(p);
    alignas(32) float lanes[kWidth] = {};
    std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(float));
    return _mm256_load_ps(lanes);
  }
  static Float load_stored(const uint16_t* p, int64_t count) {
    alignas(16) uint16_t lanes[kWidth] = {};
    const auto* source = reinterpret_cast<const __m128i*>(p);
    if (count < kWidth) {
      std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(uint16_t));
      source = reinterpret_cast<const __m128i*>(lanes);
    }
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(source)), 16));
  }
  /// to[j][i] = from[i][j], 8 x 8.
  static void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    transpose_quads(reinterpret_cast<const uint8_t*>(from), 4 * from_stride, reinterpret_cast<int8_t*>(to),
                    4 * to_stride);
  }
  /// The same for groups of 4 bytes; strides in bytes.
  static void transpose_quads(const uint8_t* from, int64_t from_stride, int8_t* to, int64_t to_stride) {
    __m256i a[8];
    __m256i b[8];
    for (int i = 0; i < 8; ++i) {
      a[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i * from_stride));
    }
    for (int i = 0; i < 4; ++i) {  // rows 2i and 2i + 1
      b[2 * i] = _mm256_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
      b[2 * i + 1] = _mm256_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {  // four rows: columns 0, 1, 2, 3 of each half
      a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      store(reinterpret_cast<int32_t*>(to + i * to_stride), _mm256_permute2x128_si256(a[i], a[i + 4], 0x20));
      store(reinterpret_cast<int32_t*>(to + (i + 4) * to_stride),
            _mm256_permute2x128_si256(a[i], a[i + 4], 0x31));
    }
  }

  static Float quiet(Float v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i upper = _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xFFFF0000U)));
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x400000));
    return _mm256_blendv_ps(v, _mm256_castsi256_ps(quiet), _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  }

  static void store(float* p, Float v, int64_t count) {
    if (count >= kWidth) {
      _mm256_storeu_ps(p, v);
      return;
    }
    alignas(32) float lanes[kWidth];
    _mm256_store_ps(lanes, v);
    std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
  }
  static void store(uint16_t* p, Float v, int64_t count) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i high = _mm256_srli_epi32(rounded, 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    alignas(16) uint16_t lanes[kWidth];
    _mm_store_si128(reinterpret_cast<__m128i*>(lanes), _mm256_castsi256_si128(packed));
    std::memcpy(p, lanes, static_cast<size_t>(count < kWidth ? count : kWidth) * sizeof(uint16_t));
  }
};

}  // namespace
}  // namespace bitdial::kernels::vector
