#include "bitdial/kernels/peak.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

#include <cstring>

#include "bitdial/kernels/vector/peak.h"

namespace bitdial::kernels::avx512vnni {
namespace {

struct Base {
  static constexpr int kRows = 6;
  static constexpr int kVectors = 4;
  static constexpr int kPanelBytes = 64;
  using Sum = __m512i;

  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum load_panel(const int8_t* p) { return _mm512_load_si512(p); }
  static Sum broadcast(const uint8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, sizeof(quad));
    return _mm512_set1_epi32(quad);
  }
};

struct Vpdpbusd : Base {
  static constexpr int kMacs = 64;
  static Sum dot(Sum sum, Sum a, Sum b) { return _mm512_dpbusd_epi32(sum, a, b); }
};

struct Vpdpwssd : Base {
  static constexpr int kMacs = 32;
  static Sum dot(Sum sum, Sum a, Sum b) { return _mm512_dpwssd_epi32(sum, a, b); }
};

}  // namespace

const PeakLoop kVpdpbusd = vector::run_peak_loop<Vpdpbusd>;
const PeakLoop kVpdpwssd = vector::run_peak_loop<Vpdpwssd>;

}  // namespace bitdial::kernels::avx512vnni

#else
namespace bitdial::kernels::avx512vnni {
const PeakLoop kVpdpbusd = nullptr;
const PeakLoop kVpdpwssd = nullptr;
}  // namespace bitdial::kernels::avx512vnni
#endif
