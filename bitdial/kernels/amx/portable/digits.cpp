#include "bitdial/kernels/amx/digits.h"

#include <algorithm>
#include <limits>

namespace bitdial::kernels::amx {

Planes planes_of(CodeType type) {
  switch (type) {
    case CodeType::kS8:
      return {1, {true, false}};
    case CodeType::kU8:
      return {1, {false, false}};
    case CodeType::kS16:
      return {2, {true, false}};
    case CodeType::kU16:
      return {2, {false, false}};
  }
  return {};
}

DigitPlan plan_digits(CodeType type_a, CodeType type_b) {
  DigitPlan plan{.a = planes_of(type_a), .b = planes_of(type_b)};
  int64_t worst = 1;
  plan.classes = plan.a.count + plan.b.count - 1;
  for (int i = 0; i < plan.classes; ++i) {
    DigitClass& digits = plan.by_class[i];
    int64_t magnitude = 0;
    for (int a = 0; a < plan.a.count; ++a) {
      const int b = i - a;
      if (b < 0 || b >= plan.b.count) continue;
      digits.plane_a[digits.pairs] = a;
      digits.plane_b[digits.pairs++] = b;
      digits.shift = plan.a.shift(a) + plan.b.shift(b);
      magnitude += plan.a.max_magnitude(a) * plan.b.max_magnitude(b);
    }
    worst = std::max(worst, magnitude);
  }
  plan.max_steps = std::numeric_limits<int32_t>::max() / worst / 64;
  return plan;
}

}  // namespace bitdial::kernels::amx
