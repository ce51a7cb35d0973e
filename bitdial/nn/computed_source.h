#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "bitdial/kernels/pool.h"
#include "bitdial/nn/buffer_pool.h"
#include "bitdial/nn/operand_source.h"

namespace bitdial::nn {

/// Per-channel factors of a pass; empty: none.
using Row = std::vector<float>;

/// A tensor that is computed in the pass that quantises it or, when someone asks for its range or its values
/// first, in a pass of its own.
class ComputedSource : public OperandSource {
 public:
  const at::Tensor& values() final;
  ops::QuantizedTensor quantize(const Format& format, std::span<const QuantParams> params, RandomKey key,
                                QuantizeStatistics& statistics) final;
  void pack_for_wtgrad(const kernels::ConvShape& shape) final { wtgrad_ = shape; }

 protected:
  /// `keeps_values`: someone will ask for values() later, so that quantising keeps them.
  ComputedSource(at::IntArrayRef sizes, at::ScalarType dtype, bool keeps_values,
                 std::shared_ptr<BufferPool> pool)
      : sizes_(sizes.vec()), dtype_(dtype), keeps_values_(keeps_values), pool_(std::move(pool)) {}

  /// The passes; `values` receives the tensor (in the second one: if given), `packing` may be null.
  virtual Range compute(void* values) = 0;
  virtual QuantizeStatistics compute_and_quantize(void* values, const Format& format,
                                                  std::span<const QuantParams> params, RandomKey key,
                                                  void* codes, const kernels::CodePacking* packing) = 0;
  /// Nothing will be computed any more.
  virtual void release() = 0;

 private:
  ops::QuantizedTensor quantize_anew(const Format& format, std::span<const QuantParams> params,
                                     RandomKey key);

  std::vector<int64_t> sizes_;
  at::ScalarType dtype_;
  bool keeps_values_;
  std::shared_ptr<BufferPool> pool_;
  at::Tensor values_;
  std::optional<kernels::ConvShape> wtgrad_;
  ops::QuantizedTensor known_;
  QuantizeStatistics statistics_;
};

/// What a max pool leaves for backward.
struct PooledMaxima {
  kernels::PoolShape shape;
  at::Tensor where;  ///< bytes, of the output's shape: the places of the maxima
  at::Tensor best;   ///< the pool's input at these places; undefined if it was not stored
};

/// activation(scale_a * a + scale_b * b + shift).
class AffineSource : public ComputedSource {
 public:
  struct Terms {
    at::Tensor a, b;  ///< dense channels_last, or [N, C]; b may be undefined
    /// `a` is the gradient of a max pool's output; its input's gradient is meant.
    std::optional<PooledMaxima> pooled;
    Row scale_a, scale_b, shift;
    kernels::Activation activation = kernels::Activation::kNone;
    at::Tensor mask;  ///< int16 words, written

    /// Whether the result is `a` itself.
    bool is_plain() const;
    std::vector<int64_t> sizes() const;
  };

  AffineSource(Terms terms, bool keeps_values, std::shared_ptr<BufferPool> pool);

  /// For a reader that computes the result itself, before anybody else asked for it.
  const Terms& terms() const { return terms_; }

 protected:
  Range compute(void* values) override;
  QuantizeStatistics compute_and_quantize(void* values, const Format& format,
                                          std::span<const QuantParams> params, RandomKey key, void* codes,
                                          const kernels::CodePacking* packing) override;
  void release() override;

 private:
  kernels::AffineTensor affine(void* values) const;

  Terms terms_;
  std::optional<kernels::MaxPoolGradient> pooled_;
};

/// The max pool of activation(scale * x + shift).
class MaxPoolSource : public ComputedSource {
 public:
  struct Terms {
    at::Tensor x;  ///< dense channels_last
    Row scale, shift;
    kernels::Activation activation = kernels::Activation::kNone;
    PooledMaxima maxima;  ///< written
  };

  MaxPoolSource(Terms terms, bool keeps_values, std::shared_ptr<BufferPool> pool);

 protected:
  Range compute(void* values) override;
  QuantizeStatistics compute_and_quantize(void* values, const Format& format,
                                          std::span<const QuantParams> params, RandomKey key, void* codes,
                                          const kernels::CodePacking* packing) override;
  void release() override { terms_ = {}; }

 private:
  kernels::MaxPool max_pool(void* values) const;

  Terms terms_;
};

/// The average pool of x.
class AveragePoolSource : public ComputedSource {
 public:
  /// x dense channels_last. `dtype`, float32 or x's, is that of values; `sizes`, of the output's shape or
  /// without its axes of one pixel.
  AveragePoolSource(at::Tensor x, const kernels::AveragePoolShape& shape, at::IntArrayRef sizes,
                    at::ScalarType dtype, bool keeps_values, std::shared_ptr<BufferPool> pool);

 protected:
  Range compute(void* values) override;
  QuantizeStatistics compute_and_quantize(void* values, const Format& format,
                                          std::span<const QuantParams> params, RandomKey key, void* codes,
                                          const kernels::CodePacking* packing) override;
  void release() override { x_.reset(); }

 private:
  kernels::AveragePool average_pool(void* values) const;

  at::Tensor x_;
  kernels::AveragePoolShape shape_;
  kernels::OutputType values_type_;
};

const float* row_or_null(const Row& row);
/// The words of a mask; null if undefined.
const uint16_t* mask_data(const at::Tensor& mask);
const void* data_or_null(const at::Tensor& x);

/// The shape of a dense tensor for the passes: [N, C, H, W] in channels_last, or [N, C].
kernels::TensorShape pass_shape(at::IntArrayRef sizes);

}  // namespace bitdial::nn
