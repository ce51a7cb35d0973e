#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace bitdial::kernels {

/// IEEE arithmetic for the lifetime of the object: rounding to nearest, denormals kept. Threads of the pool
/// may carry other settings (torch::set_flush_denormal), and bits must not depend on them.
class IeeeFloat {
 public:
  IeeeFloat(const IeeeFloat&) = delete;
  IeeeFloat& operator=(const IeeeFloat&) = delete;
#if defined(__SSE__)
  IeeeFloat() : saved_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~IeeeFloat() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kDefault = 0x1F80;  // all exceptions masked
  unsigned saved_;
#else
  IeeeFloat() = default;
#endif
};

}  // namespace bitdial::kernels
