#pragma once

#include <immintrin.h>

#include <type_traits>

#include "bitdial/kernels/bfloat16.h"

// In an unnamed namespace on purpose: every source file that is compiled for this instruction set has its
// own, so the linker cannot give another instruction set its code.
namespace bitdial::kernels {
namespace {

/// 16 lanes in one register.
struct Lanes {
  using F = __m512;
  using I = __m512i;
  using M = uint16_t;
  struct D {
    __m512d low, high;
  };
  template <class Code>
  static constexpr bool is_float() {
    return std::is_same_v<Code, float>;
  }

  static F set(float x) { return _mm512_set1_ps(x); }
  static I set_int(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static F load(const float* x) { return _mm512_loadu_ps(x); }
  static F load(const BFloat16* x) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static I load_int(const uint32_t* x) { return _mm512_loadu_si512(x); }
  static I load_codes(const int8_t* x) { return _mm512_cvtepi8_epi32(load_128(x)); }
  static I load_codes(const uint8_t* x) { return _mm512_cvtepu8_epi32(load_128(x)); }
  static I load_codes(const int16_t* x) { return _mm512_cvtepi16_epi32(load_256(x)); }
  static I load_codes(const uint16_t* x) { return _mm512_cvtepu16_epi32(load_256(x)); }
  static void store(float* to, F x) { _mm512_storeu_ps(to, x); }
  static void store(int8_t* to, I x) { store_128(to, x); }
  static void store(uint8_t* to, I x) { store_128(to, x); }
  static void store(int16_t* to, I x) { store_256(to, x); }
  static void store(uint16_t* to, I x) { store_256(to, x); }
  static void store(BFloat16* to, F x) { store_256(to, _mm512_srli_epi32(_mm512_castps_si512(x), 16)); }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F multiply_add(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

  static I add(I a, I b) { return _mm512_add_epi32(a, b); }
  static I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I mul(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static I abs(I a) { return _mm512_abs_epi32(a); }
  static I bit_xor(I a, I b) { return _mm512_xor_si512(a, b); }
  static I bit_xor(I a, I b, I c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  template <int kBits>
  static I shift_right(I a) {
    return _mm512_srli_epi32(a, kBits);
  }
  template <int kBits>
  static I shift_right_signed(I a) {
    return _mm512_srai_epi32(a, kBits);
  }
  static I to_int(F a) { return _mm512_cvtps_epi32(a); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  /// One more where the mask is set.
  static I count(I counts, M where) {
    return _mm512_mask_sub_epi32(counts, where, counts, _mm512_set1_epi32(-1));
  }

  static M first(int64_t lanes) { return static_cast<M>((1U << lanes) - 1U); }
  static M both(M a, M b) { return a & b; }
  static M either(M a, M b) { return a | b; }
  static bool any(M a) { return a != 0; }
  static M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static M equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static M equal(I a, I b) { return _mm512_cmpeq_epi32_mask(a, b); }
  static F keep(M where, F a) { return _mm512_maskz_mov_ps(where, a); }
  static F choose(M where, F yes, F no) { return _mm512_mask_mov_ps(no, where, yes); }
  static I choose(M where, I yes, I no) { return _mm512_mask_mov_epi32(no, where, yes); }
  static uint16_t bits(M a) { return a; }
  static M from_bits(uint16_t bits) { return bits; }
  /// The nearest bfloat16, ties to even, as a float32.
  static F round_to_bfloat16(F a) {
    const I bits = _mm512_castps_si512(a);
    const I odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const I rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    const I nan = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const I chosen = _mm512_mask_mov_epi32(rounded, is_nan(a), nan);
    return _mm512_castsi512_ps(_mm512_and_si512(chosen, _mm512_set1_epi32(-0x10000)));
  }
  static M is_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }

  static float reduce_min(F a) { return _mm512_reduce_min_ps(a); }
  static float reduce_max(F a) { return _mm512_reduce_max_ps(a); }
  static int64_t reduce_count(I a) {
    return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_cvtepu32_epi64(_mm512_castsi512_si256(a)),
                                                    _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(a, 1))));
  }

  static D zero_sums() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
  static void accumulate(D& sums, F x) {
    sums.low = _mm512_add_pd(sums.low, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
    sums.high = _mm512_add_pd(sums.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
  }
  static void store(double* to, const D& sums) {
    _mm512_storeu_pd(to, sums.low);
    _mm512_storeu_pd(to + 8, sums.high);
  }

 private:
  static __m128i load_128(const void* x) { return _mm_loadu_si128(static_cast<const __m128i*>(x)); }
  static __m256i load_256(const void* x) { return _mm256_loadu_si256(static_cast<const __m256i*>(x)); }
  static void store_128(void* to, I x) {
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm512_cvtepi32_epi8(x));
  }
  static void store_256(void* to, I x) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), _mm512_cvtepi32_epi16(x));
  }
};

}  // namespace
}  // namespace bitdial::kernels
