#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "bitdial/core/policy.h"
#include "bitdial/kernels/conv2d.h"

/// The pieces of a training step whose time is worth knowing.
namespace bitdial::cost {

/// One GEMM of a layer, from operands in their containers to its result in float32.
struct GemmWork {
  kernels::ConvShape shape;  ///< a linear layer is a 1x1 convolution of 1x1 images
  Gemm gemm = Gemm::kFprop;
  GemmArithmetic arithmetic = GemmArithmetic::kFloat32;
};

/// A pass over a float32 tensor.
enum class Pass : uint8_t {
  kQuantize,  ///< to 8-bit codes, with the statistics that policies need
  kBFloat16,  ///< to bfloat16
  kStream,    ///< y = a x + b in float32: what memory allows
};

struct PassWork {
  Pass pass = Pass::kQuantize;
  int64_t elements = 0;
};

/// Names that the cache stores times under: "mb64ic64ih32oc64oh32kh3ph1 fwd int8", "quantize 2^20".
std::string key_of(const GemmWork& work);
std::string key_of(Pass pass, int log2_elements);

/// Everything prepared, so that a call is the work alone. Operands hold random values.
std::function<void()> prepare(const GemmWork& work);
std::function<void()> prepare(Pass pass, int64_t elements);

/// LibTorch's GEMMs, as the layers call them: float32 or bfloat16, channels_last.
std::function<void()> prepare_float(const kernels::ConvShape& shape, Gemm gemm, bool is_bfloat16);
/// A float32 tensor to bfloat16, by LibTorch.
std::function<void()> prepare_cast(int64_t elements);

/// While it lives, bitdial's kernels and LibTorch's run on the calling thread alone.
class OneThread {
 public:
  OneThread();
  ~OneThread();
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int own_, libtorch_;
};

std::string libtorch_version();

}  // namespace bitdial::cost
