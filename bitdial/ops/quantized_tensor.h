#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <utility>
#include <vector>

#include "bitdial/core/format.h"
#include "bitdial/core/policy.h"
#include "bitdial/core/random.h"
#include "bitdial/kernels/conv2d.h"
#include "bitdial/kernels/quantize.h"

namespace bitdial::ops {

/// The kernels' name for a container of integer codes.
kernels::CodeType code_type(Container container);
/// That of a tensor in float32 or bfloat16.
kernels::OutputType output_type(const at::Tensor& x);

/// A tensor as integers: codes of the logical shape, and what turns them into values.
struct QuantizedTensor {
  /// int8, uint8 or int16 (which also carries the bits of uint16 codes); where the format has no integer
  /// codes, the values themselves: float32 above 16 bits, the tensor that came where the format is float.
  at::Tensor codes;
  /// One, or one per index of dimension 0. Empty when `codes` are values.
  std::vector<QuantParams> params;
  Format format;
  /// The codes once more as one direction of the kernels reads them (kernels::Operand::packed); may be
  /// undefined.
  at::Tensor packed = {};

  bool defined() const { return codes.defined(); }
  bool has_codes() const { return !params.empty(); }
};

/// The tensor without its graph, dense in NCHW or NHWC order (`channels_last`: NHWC, as the integer kernels
/// read). Tensors that already are so come back as they are.
at::Tensor to_dense(const at::Tensor& x, bool channels_last);

/// Ranges of a dense tensor: one, or one per index of dimension 0 (granularity); a mean over samples with
/// RangeStatistic::kSampleMean. Not checked for being finite.
std::vector<Range> measure_range(const at::Tensor& x, Granularity granularity, RangeStatistic statistic);
/// The smallest range that contains all of them; not finite if any is not.
Range union_of(std::span<const Range> ranges);
std::vector<QuantParams> choose_params(const Format& format, std::span<const Range> ranges);

double abs_sum(const at::Tensor& x);
double quantized_abs_sum(const at::Tensor& x, int word_length, float step);
/// abs_sum and quantized_abs_sum in one pass.
std::pair<double, double> abs_sums(const at::Tensor& x, int word_length, float step);

/// Quantises a dense tensor, as float32. `format` must not be float. Random bits are drawn by logical index,
/// so the memory order does not change a value. On the CPU this is kernels::quantize; on other devices
/// LibTorch's operators.
QuantizedTensor quantize(const at::Tensor& x, const Format& format, std::span<const QuantParams> params,
                         RandomKey key, QuantizeStatistics* statistics = nullptr);

/// How the kernels see a dense tensor.
kernels::TensorShape kernel_shape(const at::Tensor& x);
/// The type of a tensor of codes; uint16 codes live in int16.
at::ScalarType code_dtype(Container container);
/// quantize() of a CPU tensor into codes that exist; the format has integer codes.
QuantizeStatistics quantize_into(const at::Tensor& x, const Format& format,
                                 std::span<const QuantParams> params, RandomKey key, at::Tensor& codes);

/// A float tensor as an operand that is not quantised: as it is, or in bfloat16 where `format` is that.
QuantizedTensor unquantized(const at::Tensor& x, const Format& format = Format::float32());

/// The values in `dtype` (a floating type), in the memory order of the codes. In float64 the values are
/// exact.
at::Tensor dequantize(const QuantizedTensor& x, at::ScalarType dtype);

/// The same functions in LibTorch's operators, for any device.
namespace generic {
std::vector<Range> measure_range(const at::Tensor& x, Granularity granularity, RangeStatistic statistic);
double abs_sum(const at::Tensor& x);
double quantized_abs_sum(const at::Tensor& x, int word_length, float step);
at::Tensor quantize(const at::Tensor& x, const Format& format, std::span<const QuantParams> params,
                    RandomKey key, QuantizeStatistics& statistics);
at::Tensor dequantize(const QuantizedTensor& x, at::ScalarType dtype);
}  // namespace generic

}  // namespace bitdial::ops
