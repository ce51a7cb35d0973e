#include "bitdial/kernels/vector/taps.h"

#include <algorithm>
#include <numeric>

namespace bitdial::kernels::vector {
namespace {

int64_t ceil_divide(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

/// The part of taps [first, last), reading input, input + dilation, ..., that lies inside [0, in).
TapSpan clip(int64_t first, int64_t last, int64_t input, int64_t in, int64_t dilation) {
  const int64_t skipped = std::max<int64_t>(0, ceil_divide(-input, dilation));
  const int64_t valid = std::min(last, first + ceil_divide(in - input, dilation));
  if (first + skipped >= valid) return {};
  return {static_cast<int32_t>(first + skipped), static_cast<int32_t>(valid),
          static_cast<int32_t>(input + skipped * dilation)};
}

void find_classes(TapAxis& axis) {
  for (size_t o = 0; o < axis.spans.size(); ++o) {
    const TapSpan& span = axis.spans[o];
    const auto same = [&](const TapSpan& c) { return c.first == span.first && c.last == span.last; };
    const auto known = static_cast<size_t>(std::find_if(axis.classes.begin(), axis.classes.end(), same) -
                                           axis.classes.begin());
    if (known == axis.classes.size()) {
      axis.classes.push_back(span);
      axis.members.emplace_back();
    }
    axis.members[known].push_back(static_cast<int32_t>(o));
  }
}

}  // namespace

TapAxis forward_taps(const ConvAxis& a) {
  TapAxis axis{a.in, a.out, a.dilation, {}, {}, {}, {}, {}};
  axis.order.resize(static_cast<size_t>(a.kernel));
  std::iota(axis.order.begin(), axis.order.end(), 0);
  for (int64_t o = 0; o < a.out; ++o) {
    const int64_t input = o * a.stride - a.padding;
    axis.spans.push_back(clip(0, a.kernel, input, a.in, a.dilation));
    axis.whole.push_back({0, static_cast<int32_t>(a.kernel), static_cast<int32_t>(input)});
  }
  find_classes(axis);
  return axis;
}

TapAxis backward_taps(const ConvAxis& a) {
  // Tap t reaches dx coordinate h from dy coordinate (h + padding - t * dilation) / stride where that is
  // whole.
  const int64_t step = a.stride / std::gcd(a.stride, a.dilation);  // between taps of one remainder
  TapAxis axis{a.out, a.in, a.dilation * step / a.stride, {}, {}, {}, {}, {}};
  struct Phase {
    int64_t first = 0, last = 0, input = 0;
  };
  std::vector<Phase> phases(static_cast<size_t>(a.stride));
  for (int64_t remainder = 0; remainder < a.stride; ++remainder) {
    Phase& phase = phases[static_cast<size_t>(remainder)];
    phase.first = static_cast<int64_t>(axis.order.size());
    for (int64_t t = a.kernel - 1; t >= 0; --t) {
      const int64_t numerator = remainder + a.padding - t * a.dilation;
      if (numerator % a.stride != 0) continue;
      if (static_cast<int64_t>(axis.order.size()) == phase.first) phase.input = numerator / a.stride;
      axis.order.push_back(static_cast<int32_t>(t));
    }
    phase.last = static_cast<int64_t>(axis.order.size());
  }
  for (int64_t h = 0; h < a.in; ++h) {
    const Phase& phase = phases[static_cast<size_t>(h % a.stride)];
    const int64_t input = phase.input + h / a.stride;
    axis.spans.push_back(clip(phase.first, phase.last, input, a.out, axis.dilation));
    axis.whole.push_back(
        {static_cast<int32_t>(phase.first), static_cast<int32_t>(phase.last), static_cast<int32_t>(input)});
  }
  find_classes(axis);
  return axis;
}

PaddedAxis pad(const TapAxis& axis) {
  PaddedAxis padded{axis, 0, 1.0};
  int64_t first = 0, last = axis.in, taps = 0, valid = 0;
  for (size_t o = 0; o < axis.spans.size(); ++o) {
    const TapSpan &span = axis.spans[o], &whole = axis.whole[o];
    const int64_t reach = (whole.last - whole.first - 1) * axis.dilation;
    taps += whole.last - whole.first;
    valid += span.last - span.first;
    if (whole.first == whole.last) continue;
    first = std::min<int64_t>(first, whole.input);
    last = std::max<int64_t>(last, whole.input + reach + 1);
  }
  padded.before = -first;
  padded.waste = static_cast<double>(taps) / static_cast<double>(std::max<int64_t>(1, valid));
  padded.axis.in = last - first;
  padded.axis.spans = axis.whole;
  for (TapSpan& span : padded.axis.spans) span.input += static_cast<int32_t>(padded.before);
  padded.axis.classes.clear();
  padded.axis.members.clear();
  find_classes(padded.axis);
  return padded;
}

}  // namespace bitdial::kernels::vector
