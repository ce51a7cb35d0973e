#pragma once

#include <immintrin.h>

#include <type_traits>

#include "bitdial/kernels/bfloat16.h"

// In an unnamed namespace on purpose: every source file that is compiled for this instruction set has its
// own, so the linker cannot give another instruction set its code.
namespace bitdial::kernels {
namespace {

/// 16 lanes in two registers; masks are all-ones lanes.
struct Lanes {
  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };
  using M = I;
  struct D {
    __m256d sums[4];
  };
  template <class Code>
  static constexpr bool is_float() {
    return std::is_same_v<Code, float>;
  }

  static F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static I set_int(uint32_t x) {
    const __m256i half = _mm256_set1_epi32(static_cast<int>(x));
    return {half, half};
  }
  static F load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
  static F load(const BFloat16* x) { return {widen(load_128(x)), widen(load_128(x + 8))}; }
  static I load_int(const uint32_t* x) { return {load_256(x), load_256(x + 8)}; }
  static I load_codes(const int8_t* x) {
    return {_mm256_cvtepi8_epi32(load_64(x)), _mm256_cvtepi8_epi32(load_64(x + 8))};
  }
  static I load_codes(const uint8_t* x) {
    return {_mm256_cvtepu8_epi32(load_64(x)), _mm256_cvtepu8_epi32(load_64(x + 8))};
  }
  static I load_codes(const int16_t* x) {
    return {_mm256_cvtepi16_epi32(load_128(x)), _mm256_cvtepi16_epi32(load_128(x + 8))};
  }
  static I load_codes(const uint16_t* x) {
    return {_mm256_cvtepu16_epi32(load_128(x)), _mm256_cvtepu16_epi32(load_128(x + 8))};
  }
  static void store(float* to, F x) {
    _mm256_storeu_ps(to, x.a);
    _mm256_storeu_ps(to + 8, x.b);
  }
  static void store(int8_t* to, I x) {
    const __m256i words = pack_signed(x);
    store_128(to, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  static void store(uint8_t* to, I x) {
    const __m256i words = pack_signed(x);
    store_128(to, _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  static void store(int16_t* to, I x) { store_256(to, pack_signed(x)); }
  static void store(uint16_t* to, I x) { store_256(to, in_order(_mm256_packus_epi32(x.a, x.b))); }
  static void store(BFloat16* to, F x) {
    const I bits = {_mm256_srli_epi32(_mm256_castps_si256(x.a), 16),
                    _mm256_srli_epi32(_mm256_castps_si256(x.b), 16)};
    store_256(to, in_order(_mm256_packus_epi32(bits.a, bits.b)));
  }

  static F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F multiply_add(F x, F y, F z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F abs(F x) {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
  }
  static F round(F x) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
  }

  static I add(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static I sub(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  static I mul(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
  static I abs(I x) { return {_mm256_abs_epi32(x.a), _mm256_abs_epi32(x.b)}; }
  static I bit_xor(I x, I y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
  static I bit_xor(I x, I y, I z) { return bit_xor(bit_xor(x, y), z); }
  template <int kBits>
  static I shift_right(I x) {
    return {_mm256_srli_epi32(x.a, kBits), _mm256_srli_epi32(x.b, kBits)};
  }
  template <int kBits>
  static I shift_right_signed(I x) {
    return {_mm256_srai_epi32(x.a, kBits), _mm256_srai_epi32(x.b, kBits)};
  }
  static I to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
  static F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  /// One more where the mask is set.
  static I count(I counts, M where) { return sub(counts, where); }

  static M first(int64_t lanes) {
    const __m256i count = _mm256_set1_epi32(static_cast<int>(lanes));
    return {_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
            _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
  }
  static M both(M x, M y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
  static M either(M x, M y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
  static bool any(M x) { return _mm256_movemask_epi8(_mm256_or_si256(x.a, x.b)) != 0; }
  static M less(F x, F y) { return compare<_CMP_LT_OQ>(x, y); }
  static M equal(F x, F y) { return compare<_CMP_EQ_OQ>(x, y); }
  static M equal(I x, I y) { return {_mm256_cmpeq_epi32(x.a, y.a), _mm256_cmpeq_epi32(x.b, y.b)}; }
  static F keep(M where, F x) {
    return {_mm256_and_ps(_mm256_castsi256_ps(where.a), x.a),
            _mm256_and_ps(_mm256_castsi256_ps(where.b), x.b)};
  }
  static F choose(M where, F yes, F no) {
    return {_mm256_blendv_ps(no.a, yes.a, _mm256_castsi256_ps(where.a)),
            _mm256_blendv_ps(no.b, yes.b, _mm256_castsi256_ps(where.b))};
  }
  static I choose(M where, I yes, I no) {
    return {_mm256_blendv_epi8(no.a, yes.a, where.a), _mm256_blendv_epi8(no.b, yes.b, where.b)};
  }
  static uint16_t bits(M x) {
    const int low = _mm256_movemask_ps(_mm256_castsi256_ps(x.a));
    const int high = _mm256_movemask_ps(_mm256_castsi256_ps(x.b));
    return static_cast<uint16_t>(low | high << 8);
  }
  static M from_bits(uint16_t bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i low = _mm256_set1_epi32(bits & 0xFF), high = _mm256_set1_epi32(bits >> 8);
    return {_mm256_cmpeq_epi32(_mm256_and_si256(low, lane), lane),
            _mm256_cmpeq_epi32(_mm256_and_si256(high, lane), lane)};
  }
  /// The nearest bfloat16, ties to even, as a float32.
  static F round_to_bfloat16(F x) {
    const M nan = is_nan(x);
    return {round_half(x.a, nan.a), round_half(x.b, nan.b)};
  }
  static M is_nan(F x) { return compare<_CMP_UNORD_Q>(x, x); }

  static float reduce_min(F x) {
    const __m256 eight = _mm256_min_ps(x.a, x.b);
    const __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
  }
  static float reduce_max(F x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static int64_t reduce_count(I x) {
    uint32_t lanes[16];
    store_256(lanes, x.a);
    store_256(lanes + 8, x.b);
    int64_t sum = 0;
    for (const uint32_t lane : lanes) sum += lane;
    return sum;
  }

  static D zero_sums() {
    const __m256d zero = _mm256_setzero_pd();
    return {{zero, zero, zero, zero}};
  }
  static void accumulate(D& d, F x) {
    d.sums[0] = _mm256_add_pd(d.sums[0], _mm256_cvtps_pd(_mm256_castps256_ps128(x.a)));
    d.sums[1] = _mm256_add_pd(d.sums[1], _mm256_cvtps_pd(_mm256_extractf128_ps(x.a, 1)));
    d.sums[2] = _mm256_add_pd(d.sums[2], _mm256_cvtps_pd(_mm256_castps256_ps128(x.b)));
    d.sums[3] = _mm256_add_pd(d.sums[3], _mm256_cvtps_pd(_mm256_extractf128_ps(x.b, 1)));
  }
  static void store(double* to, const D& d) {
    for (int i = 0; i < 4; ++i) _mm256_storeu_pd(to + 4 * i, d.sums[i]);
  }

 private:
  static __m128i load_64(const void* x) { return _mm_loadl_epi64(static_cast<const __m128i*>(x)); }
  static __m128i load_128(const void* x) { return _mm_loadu_si128(static_cast<const __m128i*>(x)); }
  static __m256i load_256(const void* x) { return _mm256_loadu_si256(static_cast<const __m256i*>(x)); }
  static void store_128(void* to, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(to), x); }
  static void store_256(void* to, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }
  static __m256 widen(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static __m256 round_half(__m256 x, __m256i nan) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, nan);
    return _mm256_castsi256_ps(_mm256_and_si256(chosen, _mm256_set1_epi32(-0x10000)));
  }
  // Packing works within 128-bit halves: quarters 0 2 1 3.
  static __m256i in_order(__m256i packed) { return _mm256_permute4x64_epi64(packed, 0xD8); }
  static __m256i pack_signed(I x) { return in_order(_mm256_packs_epi32(x.a, x.b)); }
  template <int kPredicate>
  static M compare(F x, F y) {
    return {_mm256_castps_si256(_mm256_cmp_ps(x.a, y.a, kPredicate)),
            _mm256_castps_si256(_mm256_cmp_ps(x.b, y.b, kPredicate))};
  }
};

}  // namespace
}  // namespace bitdial::kernels
