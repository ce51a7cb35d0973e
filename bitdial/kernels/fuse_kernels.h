#pragma once

#include <cstdint>

#include "bitdial/kernels/bfloat16.h"
#include "bitdial/kernels/fuse.h"

/// The inner loops behind fuse.h: one table per instruction set, all with the same bits. Per-channel numbers
/// come as rows of `width` floats, a multiple of 16 and of the channels, in which they repeat: element i of a
/// tensor belongs to entry i mod width.
namespace bitdial::kernels {

/// Elements of an AffineTensor; `phase` is the entry of the first one, a multiple of 16.
struct AffineBlock {
  const void* a = nullptr;
  const void* b = nullptr;
  const float* scale_a = nullptr;
  const float* scale_b = nullptr;
  const float* shift = nullptr;
  int64_t width = 0, phase = 0;
  Activation activation = Activation::kNone;
  uint16_t* mask = nullptr;
  void* y = nullptr;
  int64_t count = 0;
};

/// Whole rows of `width` elements but for the last one, each element added to its float32 sum.
struct SumBlock {
  void* x = nullptr;            ///< the tensor of moments, or g (rewritten if there are other or mask)
  const void* other = nullptr;  ///< gradients only
  const uint16_t* mask = nullptr;
  const void* z = nullptr;
  const float* shift = nullptr;
  int64_t width = 0;
  int64_t count = 0;
  float* sums = nullptr;      ///< [width]
  float* products = nullptr;  ///< [width]: of squares, or of g * (z - shift)
};

/// One output pixel's window: the taps inside the image, `channels` elements each.
struct PoolWindow {
  const void* const* taps = nullptr;
  const uint8_t* places = nullptr;
  int64_t count = 0;
  int64_t channels = 0;
};

/// Pairs are indexed by OutputType: float32, bfloat16.
struct FuseKernels {
  void (*affine[2])(const AffineBlock& block);
  void (*moments[2])(const SumBlock& block);
  void (*gradients[2])(const SumBlock& block);
  void (*max_pool[2])(const PoolWindow& window, void* y, uint8_t* where);
  /// dx = sum over taps of dy where `where` names the tap's place. `wheres[i]` belongs to taps[i].
  void (*max_pool_backward[2])(const PoolWindow& window, const uint8_t* const* wheres, void* dx);
};

namespace scalar {
extern const FuseKernels kFuse;
}
namespace avx2 {
extern const FuseKernels kFuse;
}
namespace avx512vnni {
extern const FuseKernels kFuse;
}

}  // namespace bitdial::kernels
