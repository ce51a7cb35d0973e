#include "bitdial/nn/operand_source.h"

#include <tuple>

namespace bitdial::nn {

ops::QuantizedTensor OperandSource::quantize(const Format& format, std::span<const QuantParams> params,
                                             RandomKey key, QuantizeStatistics& statistics) {
  return ops::quantize(values(), format, params, key, &statistics);
}

const at::Tensor& FlatSource::values() {
  if (!values_.defined()) values_ = images_->values().flatten(1);
  return values_;
}

ops::QuantizedTensor FlatSource::quantize(const Format& format, std::span<const QuantParams> params,
                                          RandomKey key, QuantizeStatistics& statistics) {
  ops::QuantizedTensor result = images_->quantize(format, params, key, statistics);
  result.codes = result.codes.flatten(1);
  return result;
}

Range OperandSource::range() {
  if (!range_) range_ = ops::measure_range(values(), Granularity::kTensor, RangeStatistic::kExtreme)[0];
  return *range_;
}

double OperandSource::abs_sum() {
  if (!abs_sum_) abs_sum_ = ops::abs_sum(values());
  return *abs_sum_;
}

double OperandSource::quantized_abs_sum(int word_length, float step) {
  for (const auto& [known, sum] : quantized_) {
    if (known == std::pair(word_length, step)) return sum;
  }
  double sum = 0.0;
  if (abs_sum_) {
    sum = ops::quantized_abs_sum(values(), word_length, step);
  } else {
    std::tie(abs_sum_.emplace(), sum) = ops::abs_sums(values(), word_length, step);
  }
  quantized_.push_back({{word_length, step}, sum});
  return sum;
}

}  // namespace bitdial::nn
