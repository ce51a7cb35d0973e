#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/ops/quantized_tensor.h"

namespace bitdial::nn {

/// A tensor that is about to be quantised: it exists, or it is computed on the way. What a policy measures of
/// it is measured once.
class OperandSource : public TensorProbe {
 public:
  /// Dense; in channels_last memory where it has four dimensions and the arithmetic is integer. Computes it
  /// if need be.
  virtual const at::Tensor& values() = 0;
  virtual ops::QuantizedTensor quantize(const Format& format, std::span<const QuantParams> params,
                                        RandomKey key, QuantizeStatistics& statistics);

  /// The codes that follow are dY of this convolution's WTGRAD: who makes them may pack them for it on the
  /// way.
  virtual void pack_for_wtgrad(const kernels::ConvShape& /*shape*/) {}

  Range range() override;
  double abs_sum() override;
  double quantized_abs_sum(int word_length, float step) override;

 protected:
  std::optional<Range> range_;

 private:
  std::optional<double> abs_sum_;
  std::vector<std::pair<std::pair<int, float>, double>> quantized_;
};

class TensorSource : public OperandSource {
 public:
  explicit TensorSource(at::Tensor x) : x_(std::move(x)) {}
  const at::Tensor& values() override { return x_; }

 private:
  at::Tensor x_;
};

/// Another source's [N, C, 1, 1] as [N, C].
class FlatSource : public OperandSource {
 public:
  explicit FlatSource(std::shared_ptr<OperandSource> images) : images_(std::move(images)) {}
  const at::Tensor& values() override;
  ops::QuantizedTensor quantize(const Format& format, std::span<const QuantParams> params, RandomKey key,
                                QuantizeStatistics& statistics) override;
  Range range() override { return images_->range(); }
  double abs_sum() override { return images_->abs_sum(); }
  double quantized_abs_sum(int word_length, float step) override {
    return images_->quantized_abs_sum(word_length, step);
  }

 private:
  std::shared_ptr<OperandSource> images_;
  at::Tensor values_;
};

}  // namespace bitdial::nn
