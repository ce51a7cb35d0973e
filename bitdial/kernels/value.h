#pragma once

#include <cstdint>

/// The last step of a result with zero codes or real-valued offsets, in the order of operations of conv2d.h.
namespace bitdial::kernels {
namespace {

struct CodeParams {
  float scale = 1.0F, offset = 0.0F;
  int64_t zero_code = 0;
};

/// `products`, `sum_a`, `sum_b`: sums over the `count` valid products of a * b, a and b, of plain codes.
float corrected_value(int64_t products, int64_t sum_a, int64_t sum_b, int64_t count, const CodeParams& a,
                      const CodeParams& b) {
  sum_a -= count * a.zero_code;
  products -= a.zero_code * sum_b + b.zero_code * sum_a;
  sum_b -= count * b.zero_code;
  const double scale_a = a.scale, scale_b = b.scale, offset_a = a.offset, offset_b = b.offset;
  double value = scale_a * scale_b * static_cast<double>(products);
  value += scale_a * offset_b * static_cast<double>(sum_a);
  value += offset_a * scale_b * static_cast<double>(sum_b);
  value += static_cast<double>(count) * offset_a * offset_b;
  // Both ways and a choice, without a branch: the compiler vectorises callers.
  const float integral = static_cast<float>(products) * (a.scale * b.scale);
  return a.offset == 0.0F && b.offset == 0.0F ? integral : static_cast<float>(value);
}

}  // namespace
}  // namespace bitdial::kernels
