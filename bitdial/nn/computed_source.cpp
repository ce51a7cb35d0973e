#include "bitdial/nn/computed_source.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/kernels/gradient_packing.h"

namespace bitdial::nn {

const float* row_or_null(const Row& row) { return row.empty() ? nullptr : row.data(); }

const void* data_or_null(const at::Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; }

const uint16_t* mask_data(const at::Tensor& mask) {
  return mask.defined() ? reinterpret_cast<const uint16_t*>(mask.const_data_ptr<int16_t>()) : nullptr;
}

kernels::TensorShape pass_shape(at::IntArrayRef sizes) {
  return {.outer = sizes[0],
          .channels = sizes[1],
          .inner = sizes.size() == 4 ? sizes[2] * sizes[3] : 1,
          .order = kernels::MemoryOrder::kInterleaved};
}

const at::Tensor& ComputedSource::values() {
  if (!values_.defined()) {
    values_ = pool_->take(sizes_, dtype_);
    range_ = compute(values_.mutable_data_ptr());
    release();
  }
  return values_;
}

ops::QuantizedTensor ComputedSource::quantize(const Format& format, std::span<const QuantParams> params,
                                              RandomKey key, QuantizeStatistics& statistics) {
  const bool is_known = known_.defined() && known_.format == format &&
                        format.rounding == Rounding::kNearestEven &&
                        std::ranges::equal(known_.params, params);
  if (!is_known) {
    known_ = has_integer_codes(format) ? quantize_anew(format, params, key)
                                       : OperandSource::quantize(format, params, key, statistics_);
  }
  statistics = statistics_;
  return known_;
}

ops::QuantizedTensor ComputedSource::quantize_anew(const Format& format, std::span<const QuantParams> params,
                                                   RandomKey key) {
  ops::QuantizedTensor result{.codes = pool_->take(sizes_, ops::code_dtype(container(format))),
                              .params = {params.begin(), params.end()},
                              .format = format};
  if (values_.defined()) {
    statistics_ = ops::quantize_into(values_, format, params, key, result.codes);
    return result;
  }
  at::Tensor kept = keeps_values_ ? pool_->take(sizes_, dtype_) : at::Tensor();
  const auto packing =
      wtgrad_ ? kernels::GradientPacking::of(*wtgrad_, ops::code_type(container(format))) : nullptr;
  if (packing != nullptr) {
    result.packed = pool_->take({packing->bytes()}, at::kChar);
    packing->write_to(result.packed.mutable_data_ptr());
  }
  statistics_ = compute_and_quantize(kept.defined() ? kept.mutable_data_ptr() : nullptr, format, params, key,
                                     result.codes.mutable_data_ptr(), packing.get());
  range_ = statistics_.range;
  if (kept.defined()) {
    values_ = std::move(kept);
    release();
  }
  return result;
}

bool AffineSource::Terms::is_plain() const {
  return !pooled && !b.defined() && scale_a.empty() && shift.empty() &&
         activation == kernels::Activation::kNone;
}

std::vector<int64_t> AffineSource::Terms::sizes() const {
  if (!pooled) return a.sizes().vec();
  const kernels::PoolShape& s = pooled->shape;
  return {s.batch, s.channels, s.in_height, s.in_width};
}

AffineSource::AffineSource(Terms terms, bool keeps_values, std::shared_ptr<BufferPool> pool)
    : ComputedSource(terms.sizes(), terms.a.scalar_type(), keeps_values, std::move(pool)),
      terms_(std::move(terms)) {
  if (terms_.pooled) {
    pooled_.emplace(terms_.pooled->shape, ops::output_type(terms_.a), terms_.a.const_data_ptr(),
                    terms_.pooled->where.const_data_ptr<uint8_t>());
  }
}

Range AffineSource::compute(void* values) { return kernels::compute(affine(values)); }

QuantizeStatistics AffineSource::compute_and_quantize(void* values, const Format& format,
                                                      std::span<const QuantParams> params, RandomKey key,
                                                      void* codes, const kernels::CodePacking* packing) {
  const kernels::AffineTensor y = affine(values);
  return packing != nullptr ? kernels::compute_and_quantize(y, format, params, key, codes, *packing)
                            : kernels::compute_and_quantize(y, format, params, key, codes);
}

kernels::AffineTensor AffineSource::affine(void* values) const {
  return {.shape = pass_shape(terms_.sizes()),
          .type = ops::output_type(terms_.a),
          .a = terms_.a.const_data_ptr(),
          .pooled = pooled_ ? &*pooled_ : nullptr,
          .b = data_or_null(terms_.b),
          .scale_a = row_or_null(terms_.scale_a),
          .scale_b = row_or_null(terms_.scale_b),
          .shift = row_or_null(terms_.shift),
          .activation = terms_.activation,
          .mask = const_cast<uint16_t*>(mask_data(terms_.mask)),  // the pass writes it
          .values = values};
}

void AffineSource::release() {
  pooled_.reset();
  terms_.pooled.reset();
  terms_.a.reset();
  terms_.b.reset();
  terms_.mask.reset();
}

namespace {

std::vector<int64_t> output_sizes(const kernels::PoolShape& s) {
  return {s.batch, s.channels, s.out_height(), s.out_width()};
}

}  // namespace

MaxPoolSource::MaxPoolSource(Terms terms, bool keeps_values, std::shared_ptr<BufferPool> pool)
    : ComputedSource(output_sizes(terms.maxima.shape), terms.x.scalar_type(), keeps_values, std::move(pool)),
      terms_(std::move(terms)) {}

Range MaxPoolSource::compute(void* values) { return kernels::compute(max_pool(values)); }

QuantizeStatistics MaxPoolSource::compute_and_quantize(void* values, const Format& format,
                                                       std::span<const QuantParams> params, RandomKey key,
                                                       void* codes, const kernels::CodePacking* packing) {
  require(packing == nullptr, "max_pool", "a pool's output is no gradient to be packed");
  return kernels::compute_and_quantize(max_pool(values), format, params, key, codes);
}

kernels::MaxPool MaxPoolSource::max_pool(void* values) const {
  const at::Tensor& best = terms_.maxima.best;
  return {.shape = terms_.maxima.shape,
          .type = ops::output_type(terms_.x),
          .x = terms_.x.const_data_ptr(),
          .scale = row_or_null(terms_.scale),
          .shift = row_or_null(terms_.shift),
          .activation = terms_.activation,
          .where = terms_.maxima.where.mutable_data_ptr<uint8_t>(),
          .best = best.defined() ? best.mutable_data_ptr() : nullptr,
          .values = values};
}

AveragePoolSource::AveragePoolSource(at::Tensor x, const kernels::AveragePoolShape& shape,
                                     at::IntArrayRef sizes, at::ScalarType dtype, bool keeps_values,
                                     std::shared_ptr<BufferPool> pool)
    : ComputedSource(sizes, dtype, keeps_values, std::move(pool)),
      x_(std::move(x)),
      shape_(shape),
      values_type_(dtype == at::kFloat ? kernels::OutputType::kFloat32 : kernels::OutputType::kBFloat16) {}

Range AveragePoolSource::compute(void* values) { return kernels::compute(average_pool(values)); }

QuantizeStatistics AveragePoolSource::compute_and_quantize(void* values, const Format& format,
                                                           std::span<const QuantParams> params, RandomKey key,
                                                           void* codes, const kernels::CodePacking* packing) {
  require(packing == nullptr, "average_pool", "a pool's output is no gradient to be packed");
  return kernels::compute_and_quantize(average_pool(values), format, params, key, codes);
}

kernels::AveragePool AveragePoolSource::average_pool(void* values) const {
  return {.shape = shape_,
          .type = ops::output_type(x_),
          .x = x_.const_data_ptr(),
          .values_type = values_type_,
          .values = values};
}

}  // namespace bitdial::nn
