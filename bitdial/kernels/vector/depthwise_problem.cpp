#include "bitdial/kernels/vector/depthwise_problem.h"

#include <algorithm>
#include <cstring>

#include "bitdial/kernels/vector/tile.h"

namespace bitdial::kernels::vector {
namespace {

constexpr int64_t kTaps = 3;

WindowAxis empty_axis(int64_t in, int64_t out) {
  WindowAxis axis;
  axis.in = in;
  axis.out = out;
  std::memset(axis.tap, -1, sizeof(axis.tap));
  return axis;
}

/// `unroll` outputs share a window.
WindowAxis forward_windows(int64_t in, int64_t out, int64_t stride, int64_t padding, int64_t unroll) {
  WindowAxis axis = empty_axis(in, out);
  axis.count = unroll;
  axis.step = stride * unroll;
  axis.first = -padding;
  for (int64_t o = 0; o < unroll; ++o) {
    for (int64_t k = 0; k < kTaps; ++k) axis.tap[o][o * stride + k] = static_cast<int8_t>(k);
  }
  return axis;
}

/// Coordinate h of dx reads (h + padding - k) / stride where that is whole; `unroll` of those share a window.
WindowAxis backward_windows(int64_t in, int64_t out, int64_t stride, int64_t padding, int64_t unroll) {
  WindowAxis axis = empty_axis(in, out);
  axis.count = stride * unroll;
  axis.step = unroll;
  axis.first = (padding - kTaps + 1) / stride;  // no reach is lower; towards zero, which is up
  for (const bool place : {false, true}) {
    for (int64_t o = 0; o < axis.count; ++o) {
      for (int64_t k = 0; k < kTaps; ++k) {
        const int64_t reach = o + padding - k;
        if (reach % stride != 0) continue;
        if (place) {
          axis.tap[o][reach / stride - axis.first] = static_cast<int8_t>(k);
        } else {
          axis.first = std::min(axis.first, reach / stride);
        }
      }
    }
  }
  return axis;
}

int64_t columns_per_window(int64_t stride) { return stride == 1 ? 2 : 1; }

}  // namespace

bool supports_depthwise(const ConvShape& s, const Operand& a, const Operand& b) {
  const auto one_or_two = [](int64_t stride) { return stride == 1 || stride == 2; };
  const bool shape = s.in_channels == s.groups && s.out_channels == s.groups && s.groups % 16 == 0 &&
                     s.kernel_height == kTaps && s.kernel_width == kTaps && s.dilation_height == 1 &&
                     s.dilation_width == 1 && one_or_two(s.stride_height) && one_or_two(s.stride_width) &&
                     4 * s.out_width() <= kExactProducts;
  const bool bytes = a.type == CodeType::kS8 || a.type == CodeType::kU8;
  if (!shape || !bytes || b.type != CodeType::kS8) return false;
  const int64_t zero = unsigned_digits(a.type).zero;
  const auto inside = [&](const QuantParams& p) {
    return p.offset == 0.0F && zero + p.zero_code >= 0 && zero + p.zero_code < 256;
  };
  const auto plain = [](const QuantParams& p) { return p.offset == 0.0F && p.zero_code == 0; };
  return std::ranges::all_of(a.params, inside) && std::ranges::all_of(b.params, plain);
}

DepthwiseRows depthwise_forward(const ConvShape& s, const Operand& x, const Operand& w, const float* bias,
                                const Output& y) {
  return {s.batch,
          s.in_channels,
          forward_windows(s.in_height, s.out_height(), s.stride_height, s.padding_height, 1),
          forward_windows(s.in_width, s.out_width(), s.stride_width, s.padding_width,
                          columns_per_window(s.stride_width)),
          x,
          w,
          bias,
          y};
}

DepthwiseRows depthwise_backward_data(const ConvShape& s, const Operand& dy, const Operand& w,
                                      const Output& dx) {
  return {s.batch,
          s.in_channels,
          backward_windows(s.out_height(), s.in_height, s.stride_height, s.padding_height, 1),
          backward_windows(s.out_width(), s.in_width, s.stride_width, s.padding_width, 2),
          dy,
          w,
          nullptr,
          dx};
}

}  // namespace bitdial::kernels::vector
