#include "bitdial/kernels/depthwise_kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>

#include "bitdial/kernels/depthwise_vector.h"

namespace bitdial::kernels::avx2 {
namespace {

struct Int16x16 {
  static constexpr int kLanes = 16;
  using Vector = __m256i;

  template <CodeType kType>
  static Vector load(const void* p) {
    if constexpr (kType == CodeType::kS8) {
      return _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    } else if constexpr (kType == CodeType::kU8) {
      return _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    } else {
      return _mm256_loadu_si256(static_cast<const __m256i*>(p));
    }
  }
  static Vector load_pairs(const int16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Vector zero() { return _mm256_setzero_si256(); }
  static Vector add(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
  static Vector madd(Vector a, Vector b) { return _mm256_madd_epi16(a, b); }
  static Vector high_byte(Vector v) { return _mm256_srli_epi16(v, 8); }
  static Vector signed_high_byte(Vector v) { return _mm256_srai_epi16(v, 8); }
  static Vector low_byte(Vector v) { return _mm256_and_si256(v, _mm256_set1_epi16(255)); }
  static Vector zip_low(Vector a, Vector b) { return _mm256_unpacklo_epi16(a, b); }
  static Vector zip_high(Vector a, Vector b) { return _mm256_unpackhi_epi16(a, b); }
  static void store_sums(Vector low, Vector high, int32_t* sums) {
    auto* target = reinterpret_cast<__m256i*>(sums);
    _mm256_storeu_si256(target, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(target + 1, _mm256_permute2x128_si256(low, high, 0x31));
  }
};

}  // namespace

const depthwise::DepthwiseKernels* const kDepthwise = &depthwise::kKernels<Int16x16>;

}  // namespace bitdial::kernels::avx2

#else
namespace bitdial::kernels::avx2 {
const depthwise::DepthwiseKernels* const kDepthwise = nullptr;
}
#endif
