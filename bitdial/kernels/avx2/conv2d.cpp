// AVX2 has no exact dot product of bytes (vpmaddubsw saturates): even and odd bytes go to int16 and through
// vpmaddwd.
#include "bitdial/kernels/vector/conv2d.h"

#if defined(__AVX2__)
#include "bitdial/kernels/vector/engine.h"
#include "bitdial/kernels/vector/isa_avx.h"

namespace bitdial::kernels::avx2 {
namespace {

struct Isa : vector::AvxBase {
  static constexpr int kMaxVectors = 2;
  static constexpr int kRows[] = {0, 6, 4};
  static constexpr int kRun[] = {1, 1, 1};
  static constexpr int kWideBytes = 64;
  static constexpr int64_t kVisitBytes = 24 << 10;

  struct Panel {
    __m256i even, odd;
  };
  using Quad = Panel;

  static Panel load_panel(const int8_t* p) {
    const __m256i bytes = load_bytes(p);
    return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
  }
  static Panel load_wide(const int8_t* p) { return {load_bytes(p), load_bytes(p + 32)}; }
  static void widen(const int8_t* from, int64_t count, int8_t* to) {
    for (; count > 0; count -= 32, from += 32, to += kWideBytes) {
      const Panel panel = load_panel(from);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), panel.even);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), panel.odd);
    }
  }
  static Quad broadcast(const uint8_t* p) { return split(broadcast_bytes(p)); }
  static Quad load_quads(const uint8_t* p) { return split(load_bytes(reinterpret_cast<const int8_t*>(p))); }
  static Quad split(__m256i bytes) {
    return {_mm256_and_si256(bytes, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16(bytes, 8)};
  }
  static Sum dot(Sum sum, const Quad& a, const Panel& b) {
    const __m256i products =
        _mm256_add_epi32(_mm256_madd_epi16(a.even, b.even), _mm256_madd_epi16(a.odd, b.odd));
    return _mm256_add_epi32(sum, products);
  }
};

constexpr vector::Engine kFunctions = vector::kEngineOf<Isa>;

}  // namespace

const vector::Engine* const kEngine = &kFunctions;

}  // namespace bitdial::kernels::avx2

#else
namespace bitdial::kernels::avx2 {
const vector::Engine* const kEngine = nullptr;
}
#endif
