#pragma once

#include <cstdint>

#include "bitdial/kernels/bfloat16.h"
#include "bitdial/kernels/pool.h"
#include "bitdial/kernels/sgd.h"

/// The inner loops behind fuse.h and sgd.h: one table per instruction set, all with the same bits.
/// Per-channel numbers come as rows of `width` floats, a multiple of 16 and of the channels, in which they
/// repeat: element i of a tensor belongs to entry i mod width.
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
  void* g = nullptr;  ///< rewritten if there are other, mask, where or activation_input
  const void* other = nullptr;
  const uint16_t* mask = nullptr;
  const uint8_t* where = nullptr;
  Activation activation = Activation::kNone;
  const void* activation_input = nullptr;
  const void* z = nullptr;
  const float* shift = nullptr;
  int64_t width = 0;
  int64_t count = 0;
  float* sums = nullptr;      ///< [width]
  float* products = nullptr;  ///< [width]: of g * (z - shift)
};

/// One output pixel's window: the taps inside the image, `channels` elements each. In forward, scale and
/// shift are rows of as many floats, both given or none; `best` may be null.
struct PoolWindow {
  const void* const* taps = nullptr;
  const uint8_t* places = nullptr;
  int64_t count = 0;
  int64_t channels = 0;
  const float* scale = nullptr;
  const float* shift = nullptr;
  Activation activation = Activation::kNone;
  void* best = nullptr;
};

/// factor * the sum over rows x columns pixels, row by row, `channels` elements each: an average pool, where
/// x is its input, and its gradient, where x is that of its output.
struct SumWindow {
  const void* x = nullptr;
  int64_t rows = 0, columns = 0;
  int64_t row_stride = 0, column_stride = 0;  ///< in elements
  int64_t channels = 0;
  float factor = 1.0F;
};

/// centre + x P(x^2) / Q(x^2) with |x| bounded; lowest powers first. Fitted to the distribution function of
/// the standard normal, GELU's derivative and tanh with errors of 1e-8, 1e-7 and (relative) 4e-7.
struct RationalFit {
  static constexpr int kTerms = 6;
  float bound, centre;
  float p[kTerms], q[kTerms];
};
inline constexpr RationalFit kNormalDistribution = {
    5.5F,
    0.5F,
    {0.398942232F, 0.0338526405F, 0.00467725983F, 0.000168825514F, 6.35210836e-06F, 2.27493433e-08F},
    {1.0F, 0.251521915F, 0.0286458675F, 0.00188444403F, 7.3647403e-05F, 1.19750314e-06F}};
inline constexpr RationalFit kGeluDerivative = {
    5.5F,
    0.5F,
    {0.797885299F, -0.0309438985F, 0.0142190382F, 2.05934085e-05F, 3.58031975e-05F, 1.90872157e-07F},
    {1.0F, 0.294558764F, 0.0409885235F, 0.00352182076F, 0.000192060409F, 8.88711838e-06F}};

inline constexpr RationalFit kTanh = {
    8.0F,
    0.0F,
    {1.0F, 0.14132686F, 0.00447073393F, 4.34432332e-05F, 1.18083129e-07F, 4.12630555e-11F},
    {1.0F, 0.474660188F, 0.029357465F, 0.000509492878F, 2.71381510e-06F, 3.21268079e-09F}};

/// Pairs are indexed by OutputType: float32, bfloat16.
struct FuseKernels {
  void (*affine[2])(const AffineBlock& block);
  void (*affine_to_float[2])(const AffineBlock& block);  ///< y is float32
  void (*gradients[2])(const SumBlock& block);
  void (*max_pool[2])(const PoolWindow& window, void* y, uint8_t* where);
  void (*max_pool_to_float[2])(const PoolWindow& window, void* y, uint8_t* where);  ///< y is float32
  /// dx = sum over taps of dy where `where` names the tap's place. `wheres[i]` belongs to taps[i].
  void (*max_pool_backward[2])(const PoolWindow& window, const uint8_t* const* wheres, void* dx);
  void (*sum_window[2])(const SumWindow& window, void* y);
  void (*sum_window_to_float[2])(const SumWindow& window, void* y);  ///< y is float32
  void (*sgd)(const SgdUpdate& block);
};

/// Those of the active instruction set.
const FuseKernels& fuse_kernels();

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
