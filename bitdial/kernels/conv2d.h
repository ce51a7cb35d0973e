#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "bitdial/core/format.h"

/// Integer convolutions in the three directions of training. A linear layer is the 1x1 convolution of a 1x1
/// image (batch = rows).
///
/// Layouts, all dense: activations NHWC (channels_last); weights and weight gradients [K][R][S][C/groups]
/// (channels_last); bias [K].
///
/// Results: S = sum over the products of (q_a - zero_a) * (q_b - zero_b) is exact for every code, so it does
/// not depend on instruction set, blocking or threads. Without real-valued offsets the output is float(S) *
/// scale (+ bias), one float32 rounding per operation, scale = scale_a * scale_b rounded once; with offsets
/// the value is formed in float64 (scale_a*scale_b*S + scale_a*offset_b*sum(q_a) + offset_a*scale_b*sum(q_b)
/// + n*offset_a*offset_b, in this order) and rounded to float32 once. bfloat16 outputs are the float32 value
/// rounded half to even. Padded taps are skipped: they contribute nothing, whatever the zero point (sums run
/// over valid taps only).
namespace bitdial::kernels {

enum class CodeType : uint8_t { kS8, kU8, kS16, kU16 };
std::string_view to_string(CodeType type);

struct ConvShape {
  int64_t batch = 1;
  int64_t in_channels = 1, in_height = 1, in_width = 1;
  int64_t out_channels = 1;
  int64_t kernel_height = 1, kernel_width = 1;
  int64_t stride_height = 1, stride_width = 1;
  int64_t padding_height = 0, padding_width = 0;
  int64_t dilation_height = 1, dilation_width = 1;  ///< 1 = dense
  int64_t groups = 1;

  bool operator==(const ConvShape&) const = default;

  int64_t out_height() const {
    return (in_height + 2 * padding_height - dilation_height * (kernel_height - 1) - 1) / stride_height + 1;
  }
  int64_t out_width() const {
    return (in_width + 2 * padding_width - dilation_width * (kernel_width - 1) - 1) / stride_width + 1;
  }
  int64_t input_elements() const { return batch * in_height * in_width * in_channels; }
  int64_t output_elements() const { return batch * out_height() * out_width() * out_channels; }
  int64_t weight_elements() const {
    return out_channels * kernel_height * kernel_width * (in_channels / groups);
  }
  /// Multiply-accumulates, padded taps included (the field's convention).
  int64_t macs() const { return output_elements() * kernel_height * kernel_width * (in_channels / groups); }
};

/// Throws Error that names the first thing that is impossible (non-positive sizes, channels not divisible by
/// groups, empty output).
void check(const ConvShape& shape);

/// One quantised operand.
struct Operand {
  const void* codes = nullptr;
  CodeType type = CodeType::kS8;
  /// One entry (per tensor), or one per index of an axis that the GEMM keeps: output channel of the weight in
  /// FPROP, sample of the input in FPROP, sample of dY in BPROP.
  std::span<const QuantParams> params;
  /// The codes once more, in the order in which the direction reads them, packed when they were made: a
  /// weight by a WeightPacking, dY of WTGRAD by a GradientPacking. Null: the convolution packs them.
  const void* packed = nullptr;
};

enum class OutputType : uint8_t { kFloat32, kBFloat16 };

/// What a batch norm behind a convolution needs to know of its output, gathered while it is written. Both
/// sums run over all stored values of an output channel (of bfloat16 outputs: after rounding), d = y -
/// shift[k] rounded to float32: sum[k] = sum of d, sum_squares[k] = sum of d * d, from float32 sums of at
/// most 32 values that are added in float64. The partition depends on the shape and the instruction set only,
/// so the same bits come from any number of threads; instruction sets differ in the last bits.
struct ChannelSums {
  const float* shift = nullptr;  ///< [K], null = 0; near the mean, it saves the variance from cancellation
  double* sum = nullptr;         ///< [K], overwritten
  double* sum_squares = nullptr;
};

class OutputPass;

struct Output {
  void* data = nullptr;
  OutputType type = OutputType::kFloat32;
  const ChannelSums* sums = nullptr;  ///< conv2d_forward only; null = not wanted
  OutputPass* pass = nullptr;         ///< conv2d_backward_data only; what is done to the pixels once stored
};

/// FPROP: y[n,oh,ow,k] = sum x * w (+ bias[k], may be null).
void conv2d_forward(const ConvShape& shape, const Operand& x, const Operand& w, const float* bias,
                    const Output& y);

/// BPROP: dx[n,h,w,c] = sum dy * w. `w` has one QuantParams (its channel axis is reduced).
void conv2d_backward_data(const ConvShape& shape, const Operand& dy, const Operand& w, const Output& dx);

/// WTGRAD: dw[k,r,s,c] = sum x * dy, float32. Both operands have one QuantParams.
void conv2d_backward_weight(const ConvShape& shape, const Operand& x, const Operand& dy, float* dw);

}  // namespace bitdial::kernels
