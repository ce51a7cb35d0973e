#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bitdial/kernels/axis.h"
#include "bitdial/kernels/conv2d_kernels.h"
#include "bitdial/kernels/depthwise_kernels.h"

/// What the general depth-wise convolutions share: any taps, any codes, over the inner loops of
/// depthwise_kernels.h.
namespace bitdial::kernels::depthwise {

inline const QuantParams& params_of(const Operand& operand, int64_t index) {
  return operand.params[operand.params.size() == 1 ? 0 : static_cast<size_t>(index)];
}

inline bool needs_corrections(const Operand& a, const Operand& b) {
  const auto shifted = [](const QuantParams& p) { return p.zero_code != 0 || p.offset != 0.0F; };
  return std::ranges::any_of(a.params, shifted) || std::ranges::any_of(b.params, shifted);
}

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// An activation tensor whose pixels can be read in whole blocks of lanes: the last pixels come from a copy
/// with zeros behind, where the tensor itself would be read past its end.
class Pixels {
 public:
  Pixels(const Operand& operand, int64_t height, int64_t width, int64_t channels, int64_t batch, int lanes)
      : height_(height),
        width_(width),
        pixel_(channels * code_size(operand.type)),
        first_(static_cast<const uint8_t*>(operand.codes)) {
    const int64_t reach = round_up(channels, lanes) * code_size(operand.type);
    const int64_t bytes = batch * height * width * pixel_;
    last_safe_ = bytes - reach;
    tail_begin_ = std::max<int64_t>(last_safe_, 0);
    tail_.assign(static_cast<size_t>(bytes - tail_begin_ + reach), 0);
    std::memcpy(tail_.data(), first_ + tail_begin_, static_cast<size_t>(bytes - tail_begin_));
    zeros_.assign(static_cast<size_t>(reach), 0);
  }

  const uint8_t* zeros() const { return zeros_.data(); }
  int64_t pixel_bytes() const { return pixel_; }
  const uint8_t* at(int64_t n, int64_t h, int64_t w) const {
    const int64_t offset = ((n * height_ + h) * width_ + w) * pixel_;
    return offset > last_safe_ ? tail_.data() + (offset - tail_begin_) : first_ + offset;
  }
  /// How many of `count` pixels from (n, h, w) on, `step` apart, lie in one piece of memory; at least 1.
  int64_t contiguous(int64_t n, int64_t h, int64_t w, int64_t step, int64_t count) const {
    const int64_t offset = ((n * height_ + h) * width_ + w) * pixel_;
    if (offset > last_safe_) return 1;
    return std::min(count, (last_safe_ - offset) / (step * pixel_) + 1);
  }

 private:
  int64_t height_, width_, pixel_;
  const uint8_t* first_;
  int64_t last_safe_, tail_begin_;  // byte offsets: where a block may start, where the copy does
  std::vector<uint8_t> tail_, zeros_;
};

/// FPROP and BPROP: every output pixel sums over its taps of `a`.
struct RowProblem {
  int64_t batch, in_height, in_width, out_height, out_width, channels, kernel_width, kernel_taps;
  Operand a, w;
  const float* bias;
  Output out;
};

/// `rows` and `cols`: one axis, or one per residue of a strided data gradient.
void run_rows(const DepthwiseKernels& kernels, const RowProblem& problem, const std::vector<Axis>& rows,
              const std::vector<Axis>& cols);

/// WTGRAD.
void run_gradient(const DepthwiseKernels& kernels, const ConvShape& shape, const Operand& x,
                  const Operand& dy, float* dw);

}  // namespace bitdial::kernels::depthwise
