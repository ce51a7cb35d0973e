// 512-bit vpdpbusd: exact 4-product dot products in one instruction.
#include "bitdial/kernels/vector/conv2d.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

#include "bitdial/kernels/vector/gather.h"
#include "bitdial/kernels/vector/weight_gradient.h"

namespace bitdial::kernels::avx512vnni {
namespace {

struct Isa {
  static constexpr int kWidth = 16;
  static constexpr int kMaxVectors = 4;
  static constexpr int kRows[] = {0, 24, 12, 8, 6};

  using Sum = __m512i;
  using Panel = __m512i;
  using Quad = __m512i;
  using Float = __m512;

  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, Sum v) { _mm512_storeu_si512(p, v); }
  static Panel load_panel(const int8_t* p) { return _mm512_loadu_si512(p); }
  static Quad broadcast(const uint8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, sizeof(quad));
    return _mm512_set1_epi32(quad);
  }
  static Sum dot(Sum sum, Quad a, Panel b) { return _mm512_dpbusd_epi32(sum, a, b); }

  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static Float to_float(Sum v) { return _mm512_cvtepi32_ps(v); }
  static Float multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static __mmask16 first(int64_t count) {
    return static_cast<__mmask16>(count >= 16 ? 0xFFFF : (1 << count) - 1);
  }
  static void store(float* p, Float v, int64_t count) { _mm512_mask_storeu_ps(p, first(count), v); }
  static void store(uint16_t* p, Float v, int64_t count) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_mask_storeu_epi16(p, first(count), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }
};

constexpr vector::Engine kFunctions = {
    [](const vector::GatherProblem& problem) { vector::Gather<Isa>(problem).run(); },
    [](const vector::WeightGradientProblem& problem) { vector::WeightGradient<Isa>(problem).run(); }};

}  // namespace

const vector::Engine* const kEngine = &kFunctions;

}  // namespace bitdial::kernels::avx512vnni

#else
namespace bitdial::kernels::avx512vnni {
const vector::Engine* const kEngine = nullptr;
}
#endif
