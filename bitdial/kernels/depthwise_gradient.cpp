#include <algorithm>
#include <mutex>
#include <vector>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/code_sums.h"
#include "bitdial/kernels/depthwise_general.h"
#include "bitdial/kernels/value.h"

namespace bitdial::kernels::depthwise {
namespace {

class Gradient {
 public:
  Gradient(const DepthwiseKernels& kernels, const ConvShape& shape, const Operand& x, const Operand& dy)
      : kernels_(kernels),
        s_(shape),
        x_(x),
        dy_(dy),
        v_(forward_axis(vertical(shape))),
        h_(forward_axis(horizontal(shape))),
        x_pixels_(x, shape.in_height, shape.in_width, shape.in_channels, shape.batch, kernels.lanes),
        dy_pixels_(dy, shape.out_height(), shape.out_width(), shape.in_channels, shape.batch, kernels.lanes),
        padded_(round_up(shape.in_channels, kernels.lanes)),
        totals_(static_cast<size_t>(shape.kernel_height * shape.kernel_width * padded_)) {}

  void run(float* dw) {
    parallel_for(s_.batch, 1, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> sums(totals_.size());
      for (int64_t n = begin; n < end; ++n) add_image(n, sums);
      const std::scoped_lock lock(mutex_);  // integers: the order does not matter
      for (size_t i = 0; i < sums.size(); ++i) totals_[i] += sums[i];
    });
    store(dw);
  }

 private:
  /// Outputs [first, last) whose tap lies inside the image.
  struct Range {
    int64_t first = 0, last = 0;
  };
  static Range valid_outputs(const Axis& axis, const AxisTap& tap) {
    Range range{0, axis.positions};
    while (range.first < range.last && !axis.inside(axis.input(range.first, tap))) ++range.first;
    while (range.last > range.first && !axis.inside(axis.input(range.last - 1, tap))) --range.last;
    return range;
  }

  void add_image(int64_t n, std::vector<int64_t>& sums) const {
    int64_t* tap_sums = sums.data();
    for (const AxisTap& r : v_.taps) {
      const Range rows = valid_outputs(v_, r);
      for (const AxisTap& s : h_.taps) {
        const Range cols = valid_outputs(h_, s);
        for (int64_t oh = rows.first; oh < rows.last; ++oh) {
          add_row(n, oh, v_.input(oh, r), cols, s, tap_sums);
        }
        tap_sums += padded_;
      }
    }
  }

  /// One image row of one tap, in runs of pixels that lie in one piece of memory.
  void add_row(int64_t n, int64_t oh, int64_t h, const Range& cols, const AxisTap& s, int64_t* sums) const {
    for (int64_t ow = cols.first; ow < cols.last;) {
      const int64_t w = h_.input(ow, s);
      int64_t count = std::min(cols.last - ow, kMaxProducts);
      count = x_pixels_.contiguous(n, h, w, h_.in_step, count);
      count = dy_pixels_.contiguous(n, oh, ow, 1, count);
      for (int64_t first = 0; first < s_.in_channels; first += kernels_.lanes) {
        kernels_.gradient({.x = x_pixels_.at(n, h, w) + first * code_size(x_.type),
                           .dy = dy_pixels_.at(n, oh, ow) + first * code_size(dy_.type),
                           .x_step = h_.in_step * x_pixels_.pixel_bytes(),
                           .dy_step = dy_pixels_.pixel_bytes(),
                           .pixels = count,
                           .x_type = x_.type,
                           .dy_type = dy_.type,
                           .sums = sums + first});
      }
      ow += count;
    }
  }

  void store(float* dw) const {
    const float scale = x_.params[0].scale * dy_.params[0].scale;
    if (needs_corrections(x_, dy_)) return store_corrected(dw);
    const int64_t taps = s_.kernel_height * s_.kernel_width;
    for (int64_t c = 0; c < s_.in_channels; ++c) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        dw[c * taps + tap] = static_cast<float>(totals_[static_cast<size_t>(tap * padded_ + c)]) * scale;
      }
    }
  }

  void store_corrected(float* dw) const {
    const QuantParams& px = x_.params[0];
    const QuantParams& pdy = dy_.params[0];
    const int64_t channels = s_.in_channels;
    const auto x_sums = sum_images(x_, s_.batch, s_.in_height * s_.in_width, channels, 0, channels);
    const auto dy_sums = sum_images(dy_, s_.batch, s_.out_height() * s_.out_width(), channels, 0, channels);
    const int64_t taps = s_.kernel_height * s_.kernel_width;
    std::vector<int64_t> x(static_cast<size_t>(channels)), dy(static_cast<size_t>(channels));
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t count = s_.batch * sum_valid(tap, x_sums, dy_sums, x, dy);
      for (int64_t c = 0; c < channels; ++c) {
        const auto channel = static_cast<size_t>(c);
        dw[c * taps + tap] =
            corrected_value(totals_[static_cast<size_t>(tap * padded_ + c)], x[channel], dy[channel], count,
                            {px.scale, px.offset, px.zero_code}, {pdy.scale, pdy.offset, pdy.zero_code});
      }
    }
  }

  /// Sums of both operands' codes by channel over the output pixels whose tap lies inside; returns their
  /// number.
  int64_t sum_valid(int64_t tap, const std::vector<int64_t>& x_sums, const std::vector<int64_t>& dy_sums,
                    std::vector<int64_t>& x, std::vector<int64_t>& dy) const {
    const AxisTap& r = v_.taps[static_cast<size_t>(tap / s_.kernel_width)];
    const AxisTap& q = h_.taps[static_cast<size_t>(tap % s_.kernel_width)];
    const Range rows = valid_outputs(v_, r);
    const Range cols = valid_outputs(h_, q);
    x.assign(x.size(), 0);
    dy.assign(dy.size(), 0);
    for (int64_t oh = rows.first; oh < rows.last; ++oh) {
      for (int64_t ow = cols.first; ow < cols.last; ++ow) {
        const int64_t* x_pixel =
            x_sums.data() + (v_.input(oh, r) * s_.in_width + h_.input(ow, q)) * s_.in_channels;
        const int64_t* dy_pixel = dy_sums.data() + (oh * s_.out_width() + ow) * s_.in_channels;
        for (size_t c = 0; c < x.size(); ++c) {
          x[c] += x_pixel[c];
          dy[c] += dy_pixel[c];
        }
      }
    }
    return (rows.last - rows.first) * (cols.last - cols.first);
  }

  const DepthwiseKernels& kernels_;
  const ConvShape& s_;
  const Operand& x_;
  const Operand& dy_;
  Axis v_, h_;
  Pixels x_pixels_, dy_pixels_;
  int64_t padded_;
  std::mutex mutex_;
  std::vector<int64_t> totals_;  // [tap][padded channel]
};

}  // namespace

void run_gradient(const DepthwiseKernels& kernels, const ConvShape& shape, const Operand& x,
                  const Operand& dy, float* dw) {
  Gradient(kernels, shape, x, dy).run(dw);
}

}  // namespace bitdial::kernels::depthwise
