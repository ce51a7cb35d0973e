#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "bitdial/core/profile.h"
#include "bitdial/ops/arithmetic.h"
#include "bitdial/ops/quantized_tensor.h"

/// Convolution and linear layers as autograd functions over quantised operands.
namespace bitdial::ops {

/// Which gradients a call has to deliver.
struct Needed {
  bool input = false;   ///< dX, so BPROP runs
  bool weight = false;  ///< dW, so WTGRAD runs
};

/// The operands known in forward. The second copies are those of the backward GEMMs; where they are the same
/// tensor
/// (`codes` shares its storage) it is kept once, where they are not needed they are undefined.
struct ForwardOperands {
  QuantizedTensor x;
  QuantizedTensor w;
  QuantizedTensor x_wtgrad;
  QuantizedTensor w_bprop;
};

struct BackwardOperands {
  QuantizedTensor bprop;
  QuantizedTensor wtgrad;
};

/// Where an autograd function gets its quantised operands: one object per call. Tensors arrive dense,
/// float32, and in channels_last memory where they have four dimensions and the arithmetic is integer.
class Operands {
 public:
  virtual ~Operands() = default;
  virtual ForwardOperands forward(const at::Tensor& x, const at::Tensor& weight, Needed needed) = 0;
  virtual BackwardOperands backward(const at::Tensor& dy, Needed needed) = 0;
  /// True when backward must compute dX even where nobody else needs it (a first layer).
  virtual bool wants_input_gradient() const { return false; }
  /// dX and dW as backward has computed them, undefined where it has not.
  virtual void observe_gradients(const at::Tensor& /*dx*/, const at::Tensor& /*dw*/) {}
  /// What a Profile knows the layer by.
  virtual int layer() const { return Profile::kNoLayer; }
};

struct ConvOptions {
  std::array<int64_t, 2> stride = {1, 1};
  std::array<int64_t, 2> padding = {0, 0};
  std::array<int64_t, 2> dilation = {1, 1};
  int64_t groups = 1;
};

/// y[N, K, OH, OW] of x[N, C, H, W], weight[K, C/groups, R, S] and bias[K] (may be undefined). Gradients pass
/// the quantisers unchanged (straight-through, unmasked); the bias is not quantised and its gradient is the
/// sum of the unquantised dY. Saved for backward are the codes. Each GEMM runs on the integer kernels when
/// `arithmetic` is kInteger, both operands have integer codes and no scale varies along the reduced axis;
/// otherwise in LibTorch's float arithmetic on the values: bfloat16 where an operand's format is that,
/// otherwise float32, or float64 where x is float64 (kSimulated only). y has the type of x: float32,
/// bfloat16, or float64. The result of differentiating twice is an Error.
at::Tensor conv2d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  const ConvOptions& options, Arithmetic arithmetic, std::shared_ptr<Operands> operands);

/// y[..., K] of x[..., C], weight[K, C] and bias[K] (may be undefined): the 1x1 convolution of 1x1 images,
/// with dimension 0 of x as the sample of per-sample scales.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  Arithmetic arithmetic, std::shared_ptr<Operands> operands);

/// What a backward returns: where its graph is recorded, differentiating these gradients is an Error that
/// names the operation.
std::vector<at::Tensor> forbid_double_backward(std::vector<at::Tensor> gradients, const char* operation);

/// Whether a GEMM over these operands runs on the integer kernels. `keeps_first_axis`: whether the scales of
/// a and b may vary along dimension 0 of each.
bool runs_on_integers(Arithmetic arithmetic, const QuantizedTensor& a, bool keeps_axis_of_a,
                      const QuantizedTensor& b, bool keeps_axis_of_b);

/// Operands of fixed formats, each with the exact range of its tensor: a layer without a policy, and tests.
struct OperandFormats {
  Format weight;
  Format input;
  Format input_wtgrad;
  Format grad_bprop;
  Format grad_wtgrad;
};
std::shared_ptr<Operands> fixed_operands(const OperandFormats& formats, ReducedAxis reduced_axis,
                                         uint64_t seed);

/// x with one scale in the same word length and rounding: the second copy for a GEMM that reduces x's scale
/// axis. `ranges` are those that x's own scales came from.
QuantizedTensor quantize_whole(const at::Tensor& x, Format format, std::span<const Range> ranges,
                               RandomKey key, QuantizeStatistics* statistics = nullptr);

}  // namespace bitdial::ops
