#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "bitdial/core/policy.h"

namespace bitdial::testing {

/// Measures a vector by the definitions, in float64.
class VectorProbe : public TensorProbe {
 public:
  explicit VectorProbe(std::vector<float> values) : values_(std::move(values)) {}

  Range range() override {
    ++measures;
    if (values_.empty()) return {};
    const auto [min, max] = std::minmax_element(values_.begin(), values_.end());
    return {*min, *max};
  }

  double abs_sum() override {
    double sum = 0.0;
    for (const float x : values_) sum += std::fabs(static_cast<double>(x));
    return sum;
  }

  double quantized_abs_sum(int word_length, float step) override {
    double sum = 0.0;
    for (const double q : codes(word_length, step)) sum += std::fabs(q) * static_cast<double>(step);
    return sum;
  }

  /// clamp(rne(x / step), -2^(n-1), 2^(n-1) - 1), the quotient in float32.
  std::vector<double> codes(int word_length, float step) const {
    const double half = std::ldexp(1.0, word_length - 1);
    std::vector<double> all;
    all.reserve(values_.size());
    for (const float x : values_) {
      all.push_back(std::clamp(std::nearbyint(static_cast<double>(x / step)), -half, half - 1.0));
    }
    return all;
  }

  int measures = 0;  ///< how often a range was asked for

 private:
  std::vector<float> values_;
};

}  // namespace bitdial::testing
