// 256-bit vpdpbusd in its VEX encoding (processors without AVX-512).
#include "bitdial/kernels/vector/conv2d.h"

#if defined(__AVXVNNI__)
#include "bitdial/kernels/vector/engine.h"
#include "bitdial/kernels/vector/isa_avx.h"

namespace bitdial::kernels::avxvnni {
namespace {

struct Isa : vector::AvxBase {
  static constexpr int kMaxVectors = 2;
  static constexpr int kRows[] = {0, 12, 6};
  static constexpr int kRun[] = {1, 1, 1};
  static constexpr int kWideBytes = 32;
  static constexpr int64_t kVisitBytes = 256 << 10;

  using Panel = __m256i;
  using Quad = __m256i;

  static Panel load_panel(const int8_t* p) { return load_bytes(p); }
  static Panel load_wide(const int8_t* p) { return load_panel(p); }
  static Quad broadcast(const uint8_t* p) { return broadcast_bytes(p); }
  static Quad load_quads(const uint8_t* p) { return load_bytes(reinterpret_cast<const int8_t*>(p)); }
  static Sum dot(Sum sum, Quad a, Panel b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
};

constexpr vector::Engine kFunctions = vector::kEngineOf<Isa>;

}  // namespace

const vector::Engine* const kEngine = &kFunctions;

}  // namespace bitdial::kernels::avxvnni

#else
namespace bitdial::kernels::avxvnni {
const vector::Engine* const kEngine = nullptr;
}
#endif
