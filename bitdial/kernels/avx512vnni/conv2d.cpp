// 512-bit vpdpbusd: exact 4-product dot products in one instruction.
#include "bitdial/kernels/vector/conv2d.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

#include "bitdial/kernels/vector/engine.h"

namespace bitdial::kernels::avx512vnni {
namespace {

struct Isa {
  static constexpr int kWidth = 16;
  static constexpr int kMaxVectors = 4;
  static constexpr int kRows[] = {0, 24, 12, 8, 6};
  static constexpr int kRun[] = {1, 8, 4, 1, 1};
  static constexpr int kWideBytes = 64;
  static constexpr int64_t kVisitBytes = 256 << 10;

  using Sum = __m512i;
  using Panel = __m512i;
  using Quad = __m512i;
  using Float = __m512;

  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, Sum v) { _mm512_storeu_si512(p, v); }
  static Panel load_panel(const int8_t* p) { return _mm512_loadu_si512(p); }
  static Panel load_wide(const int8_t* p) { return load_panel(p); }
  static Quad broadcast(const uint8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, sizeof(quad));
    return _mm512_set1_epi32(quad);
  }
  static Quad load_quads(const uint8_t* p) { return _mm512_loadu_si512(p); }
  // In assembly, since GCC 12 moves the sums of its intrinsic from register to register in some loops.
  static Sum dot(Sum sum, Quad a, Panel b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }

  static Sum set(int32_t value) { return _mm512_set1_epi32(value); }
  static Sum add(Sum a, Sum b) { return _mm512_add_epi32(a, b); }
  static Sum times_256(Sum a) { return _mm512_slli_epi32(a, 8); }

  static int32_t sum_bytes(const uint8_t* p, int64_t count) {
    __m512i sums = _mm512_setzero_si512();
    int64_t i = 0;
    for (; i + 64 <= count; i += 64) {
      sums = _mm512_add_epi64(sums, _mm512_sad_epu8(_mm512_loadu_si512(p + i), _mm512_setzero_si512()));
    }
    if (i < count) {
      const __mmask64 rest = (uint64_t{1} << (count - i)) - 1;
      sums = _mm512_add_epi64(sums,
                              _mm512_sad_epu8(_mm512_maskz_loadu_epi8(rest, p + i), _mm512_setzero_si512()));
    }
    return static_cast<int32_t>(_mm512_reduce_add_epi64(sums));
  }

  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static Float multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float zero_float() { return _mm512_setzero_ps(); }
  static Float subtract(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static void add_to(double* p, Float v) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    _mm512_storeu_pd(p, _mm512_add_pd(_mm512_loadu_pd(p), low));
    _mm512_storeu_pd(p + 8, _mm512_add_pd(_mm512_loadu_pd(p + 8), high));
  }
  static Float load_stored(const float* p, int64_t count) {
    return count >= 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(first(count), p);
  }
  static Float load_stored(const uint16_t* p, int64_t count) {
    const __m256i halves = count >= 16 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                                       : _mm256_maskz_loadu_epi16(first(count), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  static Float to_float(Sum v) { return _mm512_cvtepi32_ps(v); }

  static __m512d low(Sum v) { return _mm512_cvtepi32_pd(_mm512_castsi512_si256(v)); }
  static __m512d high(Sum v) { return _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(v, 1)); }
  static Float join(__m512d low, __m512d high) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1);
  }
  static Float to_float(Sum d0, Sum d1) {
    const __m512d base = _mm512_set1_pd(256.0);
    return join(_mm512_fmadd_pd(low(d1), base, low(d0)), _mm512_fmadd_pd(high(d1), base, high(d0)));
  }
  static Float to_float(Sum d00, Sum d01, Sum d10, Sum d11) {
    const __m512d base = _mm512_set1_pd(256.0);
    const auto combine = [&](__m512d a, __m512d b, __m512d c, __m512d d) {
      return _mm512_fmadd_pd(_mm512_fmadd_pd(d, base, _mm512_add_pd(b, c)), base, a);
    };
    return join(combine(low(d00), low(d01), low(d10), low(d11)),
                combine(high(d00), high(d01), high(d10), high(d11)));
  }

  static Float quiet(Float v) {
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i bits = _mm512_castps_si512(v);
    // (bits & 0xFFFF0000) | 0x00400000
    const __m512i quiet = _mm512_ternarylogic_epi32(bits, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U)),
                                                    _mm512_set1_epi32(0x400000), 0xEA);
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, nan, quiet));
  }

  /// to[j][i] = from[i][j], 16 x 16.
  static void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    transpose_quads(reinterpret_cast<const uint8_t*>(from), 4 * from_stride, reinterpret_cast<int8_t*>(to),
                    4 * to_stride);
  }
  /// The same for groups of 4 bytes; strides in bytes.
  static void transpose_quads(const uint8_t* from, int64_t from_stride, int8_t* to, int64_t to_stride) {
    __m512i a[16];
    __m512i b[16];
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * from_stride);
    for (int round = 0; round < 4; ++round) {  // each interleaves rows i and i + 8
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        b[2 * i] = _mm512_permutex2var_epi32(a[i], low, a[i + 8]);
        b[2 * i + 1] = _mm512_permutex2var_epi32(a[i], high, a[i + 8]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) a[i] = b[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * to_stride, a[i]);
  }

  static __mmask16 first(int64_t count) {
    return static_cast<__mmask16>(count >= 16 ? 0xFFFF : (1 << count) - 1);
  }
  /// The upper halves hold the bfloat16 values.
  static __m512i round(Float v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
  }
  // Whole vectors are stored without a mask: masked stores are slow on some processors.
  static void store(float* p, Float v, int64_t count) {
    if (count >= 16) {
      _mm512_storeu_ps(p, v);
    } else {
      _mm512_mask_storeu_ps(p, first(count), v);
    }
  }
  static void store(uint16_t* p, Float v, int64_t count) {
    const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round(v), 16));
    if (count >= 16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
    } else {
      _mm256_mask_storeu_epi16(p, first(count), halves);
    }
  }
  static void store_pair(float* p, Float a, Float b) {
    _mm512_storeu_ps(p, a);
    _mm512_storeu_ps(p + 16, b);
  }
  static void store_pair(uint16_t* p, Float a, Float b) { _mm512_storeu_si512(p, halves(a, b)); }
  static void store_rows(float* p, float* q, Float a, Float b) {
    _mm512_storeu_ps(p, a);
    _mm512_storeu_ps(q, b);
  }
  static void store_rows(uint16_t* p, uint16_t* q, Float a, Float b) {
    const __m512i both = halves(a, b);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(both));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm512_extracti64x4_epi64(both, 1));
  }
  static __m512i halves(Float a, Float b) {
    const __m512i upper = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31,
                                           29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(round(a), upper, round(b));
  }
};

constexpr vector::Engine kFunctions = vector::kEngineOf<Isa>;

}  // namespace

const vector::Engine* const kEngine = &kFunctions;

}  // namespace bitdial::kernels::avx512vnni

#else
namespace bitdial::kernels::avx512vnni {
const vector::Engine* const kEngine = nullptr;
}
#endif
