#include "bitdial/kernels/peak.h"

#if defined(__AVX2__)
#include <immintrin.h>

#include <cstring>

#include "bitdial/kernels/vector/peak.h"

namespace bitdial::kernels::avx2 {
namespace {

struct Vpmaddwd {
  static constexpr int kRows = 6;
  static constexpr int kVectors = 2;
  static constexpr int kPanelBytes = 32;
  static constexpr int kMacs = 16;
  using Sum = __m256i;

  static Sum zero() { return _mm256_setzero_si256(); }
  static Sum load_panel(const int8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
  static Sum broadcast(const uint8_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof(pair));
    return _mm256_set1_epi32(pair);
  }
  static Sum dot(Sum sum, Sum a, Sum b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
};

}  // namespace

const PeakLoop kVpmaddwd = vector::run_peak_loop<Vpmaddwd>;

}  // namespace bitdial::kernels::avx2

#else
namespace bitdial::kernels::avx2 {
const PeakLoop kVpmaddwd = nullptr;
}
#endif
