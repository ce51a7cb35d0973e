#include "bitdial/nn/computed_source.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <utility>

#include "bitdial/kernels/gradient_packing.h"

namespace bitdial::nn {

const float* row_or_null(const Row& row) { return row.empty() ? nullptr : row.data(); }

const void* data_or_null(const at::Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; }

const uint16_t* mask_data(const at::Tensor& mask) {
  return mask.defined() ? reinterpret_cast<const uint16_t*>(mask.const_data_ptr<int16_t>()) : nullptr;
}

kernels::TensorShape pass_shape(const at::Tensor& x) {
  return {.outer = x.size(0),
          .channels = x.size(1),
          .inner = x.dim() == 4 ? x.size(2) * x.size(3) : 1,
          .order = kernels::MemoryOrder::kInterleaved};
}

bool ComputedSource::Terms::is_plain() const {
  return !b.defined() && scale_a.empty() && shift.empty() && activation == kernels::Activation::kNone;
}

ComputedSource::ComputedSource(Terms terms, bool keeps_values, std::shared_ptr<BufferPool> pool)
    : terms_(std::move(terms)), keeps_values_(keeps_values), pool_(std::move(pool)) {}

const at::Tensor& ComputedSource::values() {
  if (!values_.defined()) {
    values_ = pool_->take(terms_.a.sizes(), terms_.a.scalar_type());
    range_ = kernels::compute(affine(values_.mutable_data_ptr()));
    release_terms();
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
  const at::Tensor& like = values_.defined() ? values_ : terms_.a;
  ops::QuantizedTensor result{.codes = pool_->take(like.sizes(), ops::code_dtype(container(format))),
                              .params = {params.begin(), params.end()},
                              .format = format};
  if (values_.defined()) {
    statistics_ = ops::quantize_into(values_, format, params, key, result.codes);
    return result;
  }
  at::Tensor kept = keeps_values_ ? pool_->take(like.sizes(), like.scalar_type()) : at::Tensor();
  const kernels::AffineTensor y = affine(kept.defined() ? kept.mutable_data_ptr() : nullptr);
  void* codes = result.codes.mutable_data_ptr();
  const auto packing =
      wtgrad_ ? kernels::GradientPacking::of(*wtgrad_, ops::code_type(container(format))) : nullptr;
  if (packing != nullptr) {
    result.packed = pool_->take({packing->bytes()}, at::kChar);
    packing->write_to(result.packed.mutable_data_ptr());
    statistics_ = kernels::compute_and_quantize(y, format, params, key, codes, *packing);
  } else {
    statistics_ = kernels::compute_and_quantize(y, format, params, key, codes);
  }
  range_ = statistics_.range;
  if (kept.defined()) {
    values_ = std::move(kept);
    release_terms();
  }
  return result;
}

kernels::AffineTensor ComputedSource::affine(void* values) const {
  return {.shape = pass_shape(terms_.a),
          .type = ops::output_type(terms_.a),
          .a = terms_.a.const_data_ptr(),
          .b = data_or_null(terms_.b),
          .scale_a = row_or_null(terms_.scale_a),
          .scale_b = row_or_null(terms_.scale_b),
          .shift = row_or_null(terms_.shift),
          .activation = terms_.activation,
          .mask = const_cast<uint16_t*>(mask_data(terms_.mask)),  // the pass writes it
          .values = values};
}

void ComputedSource::release_terms() {
  terms_.a.reset();
  terms_.b.reset();
  terms_.mask.reset();
}

}  // namespace bitdial::nn
