#include "bitdial/kernels/peak.h"

#if defined(__AVXVNNI__)
#include <immintrin.h>

#include <cstring>

#include "bitdial/kernels/vector/peak.h"

namespace bitdial::kernels::avxvnni {
namespace {

struct Base {
  static constexpr int kRows = 6;
  static constexpr int kVectors = 2;
  static constexpr int kPanelBytes = 32;
  using Sum = __m256i;

  static Sum zero() { return _mm256_setzero_si256(); }
  static Sum load_panel(const int8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
  static Sum broadcast(const uint8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, sizeof(quad));
    return _mm256_set1_epi32(quad);
  }
};

struct Vpdpbusd : Base {
  static constexpr int kMacs = 32;
  static Sum dot(Sum sum, Sum a, Sum b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
};

struct Vpdpwssd : Base {
  static constexpr int kMacs = 16;
  static Sum dot(Sum sum, Sum a, Sum b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
};

}  // namespace

const PeakLoop kVpdpbusd = vector::run_peak_loop<Vpdpbusd>;
const PeakLoop kVpdpwssd = vector::run_peak_loop<Vpdpwssd>;

}  // namespace bitdial::kernels::avxvnni

#else
namespace bitdial::kernels::avxvnni {
const PeakLoop kVpdpbusd = nullptr;
const PeakLoop kVpdpwssd = nullptr;
}  // namespace bitdial::kernels::avxvnni
#endif
