// The definition of every result: plain loops in the order of the formula, int64 sums. All other instruction
// sets are tested bit-exactly against this file, which shares no code with them.
#include <bit>
#include <cstdint>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/conv2d_kernels.h"

namespace bitdial::kernels::scalar {
namespace {

int64_t load_code(const Operand& operand, int64_t index) {
  switch (operand.type) {
    case CodeType::kS8:
      return static_cast<const int8_t*>(operand.codes)[index];
    case CodeType::kU8:
      return static_cast<const uint8_t*>(operand.codes)[index];
    case CodeType::kS16:
      return static_cast<const int16_t*>(operand.codes)[index];
    case CodeType::kU16:
      return static_cast<const uint16_t*>(operand.codes)[index];
  }
  return 0;
}

const QuantParams& params_of(const Operand& operand, int64_t index) {
  return operand.params[operand.params.size() == 1 ? 0 : static_cast<size_t>(index)];
}

/// The four sums that a result is made of, over the valid taps, codes taken relative to their zero codes.
struct Sums {
  int64_t products = 0, a = 0, b = 0, count = 0;

  void add(int64_t code_a, int64_t code_b) {
    products += code_a * code_b;
    a += code_a;
    b += code_b;
    ++count;
  }
};

float value_of(const Sums& sums, const QuantParams& a, const QuantParams& b) {
  if (a.offset == 0.0F && b.offset == 0.0F) return static_cast<float>(sums.products) * (a.scale * b.scale);
  const double scale_a = a.scale;
  const double scale_b = b.scale;
  const double offset_a = a.offset;
  const double offset_b = b.offset;
  double value = scale_a * scale_b * static_cast<double>(sums.products);
  value += scale_a * offset_b * static_cast<double>(sums.a);
  value += offset_a * scale_b * static_cast<double>(sums.b);
  value += static_cast<double>(sums.count) * offset_a * offset_b;
  return static_cast<float>(value);
}

uint16_t to_bfloat16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  bits += 0x7FFFU + ((bits >> 16) & 1U);
  return static_cast<uint16_t>(bits >> 16);
}

void store(const Output& output, int64_t index, float value) {
  if (output.type == OutputType::kFloat32) {
    static_cast<float*>(output.data)[index] = value;
  } else {
    static_cast<uint16_t*>(output.data)[index] = to_bfloat16(value);
  }
}

struct Indices {
  const ConvShape& s;
  int64_t x(int64_t n, int64_t h, int64_t w, int64_t c) const {
    return ((n * s.in_height + h) * s.in_width + w) * s.in_channels + c;
  }
  int64_t y(int64_t n, int64_t h, int64_t w, int64_t k) const {
    return ((n * s.out_height() + h) * s.out_width() + w) * s.out_channels + k;
  }
  /// `c` within the group.
  int64_t w(int64_t k, int64_t r, int64_t q, int64_t c) const {
    return ((k * s.kernel_height + r) * s.kernel_width + q) * (s.in_channels / s.groups) + c;
  }
  /// The input row (column) that tap `tap` of output row `out` reads; -1 when it is padding.
  int64_t row(int64_t out, int64_t tap) const {
    const int64_t h = out * s.stride_height - s.padding_height + tap * s.dilation_height;
    return h >= 0 && h < s.in_height ? h : -1;
  }
  int64_t column(int64_t out, int64_t tap) const {
    const int64_t w = out * s.stride_width - s.padding_width + tap * s.dilation_width;
    return w >= 0 && w < s.in_width ? w : -1;
  }
};

void forward(const ConvShape& s, const Operand& x, const Operand& w, const float* bias, const Output& y) {
  const Indices at{s};
  const int64_t group_in = s.in_channels / s.groups;
  const int64_t group_out = s.out_channels / s.groups;
  const int64_t pixels = s.out_height() * s.out_width();
  parallel_for(s.batch * pixels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / pixels;
      const int64_t oh = i % pixels / s.out_width();
      const int64_t ow = i % s.out_width();
      const QuantParams& px = params_of(x, n);
      for (int64_t k = 0; k < s.out_channels; ++k) {
        const QuantParams& pw = params_of(w, k);
        Sums sums;
        for (int64_t r = 0; r < s.kernel_height; ++r) {
          for (int64_t q = 0; q < s.kernel_width; ++q) {
            const int64_t h = at.row(oh, r);
            const int64_t v = at.column(ow, q);
            if (h < 0 || v < 0) continue;
            for (int64_t c = 0; c < group_in; ++c) {
              sums.add(load_code(x, at.x(n, h, v, k / group_out * group_in + c)) - px.zero_code,
                       load_code(w, at.w(k, r, q, c)) - pw.zero_code);
            }
          }
        }
        const float value = value_of(sums, px, pw);
        store(y, at.y(n, oh, ow, k), bias ? value + bias[k] : value);
      }
    }
  });
}

void backward_data(const ConvShape& s, const Operand& dy, const Operand& w, const Output& dx) {
  const Indices at{s};
  const int64_t group_in = s.in_channels / s.groups;
  const int64_t group_out = s.out_channels / s.groups;
  const int64_t pixels = s.in_height * s.in_width;
  const QuantParams& pw = params_of(w, 0);
  parallel_for(s.batch * pixels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / pixels;
      const int64_t h = i % pixels / s.in_width;
      const int64_t v = i % s.in_width;
      const QuantParams& pdy = params_of(dy, n);
      for (int64_t c = 0; c < s.in_channels; ++c) {
        const int64_t group = c / group_in;
        Sums sums;
        for (int64_t r = 0; r < s.kernel_height; ++r) {
          for (int64_t q = 0; q < s.kernel_width; ++q) {
            const int64_t up = h + s.padding_height - r * s.dilation_height;
            const int64_t left = v + s.padding_width - q * s.dilation_width;
            if (up % s.stride_height != 0 || left % s.stride_width != 0) continue;
            const int64_t oh = up / s.stride_height;
            const int64_t ow = left / s.stride_width;
            if (oh < 0 || oh >= s.out_height() || ow < 0 || ow >= s.out_width()) continue;
            for (int64_t k = group * group_out; k < (group + 1) * group_out; ++k) {
              sums.add(load_code(dy, at.y(n, oh, ow, k)) - pdy.zero_code,
                       load_code(w, at.w(k, r, q, c - group * group_in)) - pw.zero_code);
            }
          }
        }
        store(dx, at.x(n, h, v, c), value_of(sums, pdy, pw));
      }
    }
  });
}

void backward_weight(const ConvShape& s, const Operand& x, const Operand& dy, float* dw) {
  const Indices at{s};
  const int64_t group_in = s.in_channels / s.groups;
  const int64_t group_out = s.out_channels / s.groups;
  const QuantParams& px = params_of(x, 0);
  const QuantParams& pdy = params_of(dy, 0);
  parallel_for(s.weight_elements(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i % group_in;
      const int64_t q = i / group_in % s.kernel_width;
      const int64_t r = i / group_in / s.kernel_width % s.kernel_height;
      const int64_t k = i / group_in / s.kernel_width / s.kernel_height;
      Sums sums;
      for (int64_t n = 0; n < s.batch; ++n) {
        for (int64_t oh = 0; oh < s.out_height(); ++oh) {
          for (int64_t ow = 0; ow < s.out_width(); ++ow) {
            const int64_t h = at.row(oh, r);
            const int64_t v = at.column(ow, q);
            if (h < 0 || v < 0) continue;
            sums.add(load_code(x, at.x(n, h, v, k / group_out * group_in + c)) - px.zero_code,
                     load_code(dy, at.y(n, oh, ow, k)) - pdy.zero_code);
          }
        }
      }
      dw[i] = value_of(sums, px, pdy);
    }
  });
}

}  // namespace

const Conv2dKernels kConv2d = {forward, backward_data, backward_weight};

}  // namespace bitdial::kernels::scalar
