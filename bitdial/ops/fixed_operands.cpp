#include <torch/torch.h>

#include "bitdial/core/error.h"
#include "bitdial/ops/gemm.h"

namespace bitdial::ops {
namespace {

class FixedOperands : public Operands {
 public:
  FixedOperands(const OperandFormats& formats, ReducedAxis reduced_axis, uint64_t seed)
      : formats_(formats), reduced_axis_(reduced_axis), seed_(seed) {}

  ForwardOperands forward(const at::Tensor& x, const at::Tensor& weight, Needed needed) override {
    ForwardOperands operands;
    operands.w = quantized(weight, formats_.weight, TensorRole::kWeight, false);
    operands.x = quantized(x, formats_.input, TensorRole::kInput, false);
    if (needed.input) {
      operands.w_bprop = is_reduced(formats_.weight)
                             ? quantized(weight, formats_.weight, TensorRole::kWeight, true)
                             : operands.w;
    }
    if (needed.weight) {
      const bool reduced = is_reduced(formats_.input_wtgrad);
      operands.x_wtgrad = formats_.input_wtgrad == formats_.input && !reduced
                              ? operands.x
                              : quantized(x, formats_.input_wtgrad, TensorRole::kInputWtgrad, reduced);
    }
    return operands;
  }

  BackwardOperands backward(const at::Tensor& dy, Needed needed) override {
    BackwardOperands operands;
    if (needed.input) operands.bprop = quantized(dy, formats_.grad_bprop, TensorRole::kGradBprop, false);
    if (needed.weight) {
      const bool reduced = is_reduced(formats_.grad_wtgrad);
      operands.wtgrad = needed.input && formats_.grad_wtgrad == formats_.grad_bprop && !reduced
                            ? operands.bprop
                            : quantized(dy, formats_.grad_wtgrad, TensorRole::kGradWtgrad, reduced);
    }
    return operands;
  }

 private:
  bool is_reduced(const Format& format) const {
    return !format.is_float() && format.granularity != Granularity::kTensor &&
           reduced_axis_ == ReducedAxis::kRequantise;
  }

  QuantizedTensor quantized(const at::Tensor& x, const Format& format, TensorRole role, bool whole) const {
    if (format.is_float()) return unquantized(x, format);
    const RandomKey key =
        random_key({.seed = seed_, .tensor = static_cast<uint32_t>(role), .call = whole ? 1U : 0U});
    const auto ranges = measure_range(x, format.granularity, format.range_statistic);
    require(union_of(ranges).is_finite(), "quantize", "the range of {} is not finite", to_string(role));
    if (whole) return quantize_whole(x, format, ranges, key);
    return quantize(x, format, choose_params(format, ranges), key);
  }

  OperandFormats formats_;
  ReducedAxis reduced_axis_;
  uint64_t seed_;
};

}  // namespace

std::shared_ptr<Operands> fixed_operands(const OperandFormats& formats, ReducedAxis reduced_axis,
                                         uint64_t seed) {
  return std::make_shared<FixedOperands>(formats, reduced_axis, seed);
}

QuantizedTensor quantize_whole(const at::Tensor& x, Format format, std::span<const Range> ranges,
                               RandomKey key, QuantizeStatistics* statistics) {
  format.granularity = Granularity::kTensor;
  const QuantParams params = choose_params(format, union_of(ranges));
  return quantize(x, format, {&params, 1}, key, statistics);
}

}  // namespace bitdial::ops
