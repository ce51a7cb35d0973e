#include "bitdial/kernels/depthwise_kernels.h"

#if defined(__AVX512BW__)
#include <immintrin.h>

#include "bitdial/kernels/depthwise_vector.h"

namespace bitdial::kernels::avx512vnni {
namespace {

struct Int16x32 {
  static constexpr int kLanes = 32;
  using Vector = __m512i;

  template <CodeType kType>
  static Vector load(const void* p) {
    if constexpr (kType == CodeType::kS8) {
      return _mm512_cvtepi8_epi16(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    } else if constexpr (kType == CodeType::kU8) {
      return _mm512_cvtepu8_epi16(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    } else {
      return _mm512_loadu_si512(p);
    }
  }
  static Vector load_pairs(const int16_t* p) { return _mm512_loadu_si512(p); }
  static Vector zero() { return _mm512_setzero_si512(); }
  static Vector add(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
  static Vector madd(Vector a, Vector b) { return _mm512_madd_epi16(a, b); }
  static Vector high_byte(Vector v) { return _mm512_srli_epi16(v, 8); }
  static Vector signed_high_byte(Vector v) { return _mm512_srai_epi16(v, 8); }
  static Vector low_byte(Vector v) { return _mm512_and_si512(v, _mm512_set1_epi16(255)); }
  static Vector zip_low(Vector a, Vector b) { return _mm512_unpacklo_epi16(a, b); }
  static Vector zip_high(Vector a, Vector b) { return _mm512_unpackhi_epi16(a, b); }
  static void store_sums(Vector low, Vector high, int32_t* sums) {
    // 128-bit parts L0 H0 L1 H1 | L2 H2 L3 H3.
    const Vector first = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high);
    const Vector second = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high);
    _mm512_storeu_si512(sums, first);
    _mm512_storeu_si512(sums + 16, second);
  }
};

}  // namespace

const depthwise::DepthwiseKernels* const kDepthwise = &depthwise::kKernels<Int16x32>;

}  // namespace bitdial::kernels::avx512vnni

#else
namespace bitdial::kernels::avx512vnni {
const depthwise::DepthwiseKernels* const kDepthwise = nullptr;
}
#endif
