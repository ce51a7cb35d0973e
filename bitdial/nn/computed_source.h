#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "bitdial/kernels/fuse.h"
#include "bitdial/nn/buffer_pool.h"
#include "bitdial/nn/operand_source.h"

namespace bitdial::nn {

/// Per-channel factors of a pass; empty: none.
using Row = std::vector<float>;

/// activation(scale_a * a + scale_b * b + shift), computed in the pass that quantises it or, when someone
/// asks for its range or its values first, in a pass of its own.
class ComputedSource : public OperandSource {
 public:
  struct Terms {
    at::Tensor a, b;  ///< dense channels_last, or [N, C]; b may be undefined
    Row scale_a, scale_b, shift;
    kernels::Activation activation = kernels::Activation::kNone;
    at::Tensor mask;  ///< int16 words, written

    /// Whether the result is `a` itself.
    bool is_plain() const;
  };

  /// `keeps_values`: someone will ask for values() later, so that quantising keeps them.
  ComputedSource(Terms terms, bool keeps_values, std::shared_ptr<BufferPool> pool);

  const at::Tensor& values() override;
  /// For a reader that computes the result itself, before anybody else asked for it.
  const Terms& terms() const { return terms_; }
  ops::QuantizedTensor quantize(const Format& format, std::span<const QuantParams> params, RandomKey key,
                                QuantizeStatistics& statistics) override;
  void pack_for_wtgrad(const kernels::ConvShape& shape) override { wtgrad_ = shape; }

 private:
  ops::QuantizedTensor quantize_anew(const Format& format, std::span<const QuantParams> params,
                                     RandomKey key);
  kernels::AffineTensor affine(void* values) const;
  void release_terms();

  Terms terms_;
  bool keeps_values_;
  std::shared_ptr<BufferPool> pool_;
  at::Tensor values_;
  std::optional<kernels::ConvShape> wtgrad_;
  ops::QuantizedTensor known_;
  QuantizeStatistics statistics_;
};

const float* row_or_null(const Row& row);
/// The words of a mask; null if undefined.
const uint16_t* mask_data(const at::Tensor& mask);
const void* data_or_null(const at::Tensor& x);

/// The shape of a dense tensor for the passes: [N, C, H, W] in channels_last, or [N, C].
kernels::TensorShape pass_shape(const at::Tensor& x);

}  // namespace bitdial::nn
