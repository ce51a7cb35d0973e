#include "bitdial/kernels/depthwise.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/axis.h"
#include "bitdial/kernels/code_sums.h"
#include "bitdial/kernels/conv2d_kernels.h"
#include "bitdial/kernels/depthwise_kernels.h"
#include "bitdial/kernels/value.h"
#include "bitdial/kernels/vector/conv2d.h"

namespace bitdial::kernels::depthwise {
namespace {

const DepthwiseKernels* kernels_of(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return nullptr;
    case Isa::kAvx2:
    case Isa::kAvxVnni:
      return avx2::kDepthwise;
    case Isa::kAvx512Vnni:
    case Isa::kAmx:
      return avx512vnni::kDepthwise;
  }
  return nullptr;
}

const QuantParams& params_of(const Operand& operand, int64_t index) {
  return operand.params[operand.params.size() == 1 ? 0 : static_cast<size_t>(index)];
}

bool needs_corrections(const Operand& a, const Operand& b) {
  const auto shifted = [](const QuantParams& p) { return p.zero_code != 0 || p.offset != 0.0F; };
  return std::ranges::any_of(a.params, shifted) || std::ranges::any_of(b.params, shifted);
}

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

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

// ---- forward and data gradient ----

struct RowProblem {
  int64_t batch, in_height, in_width, out_height, out_width, channels, kernel_width, kernel_taps;
  Operand a, w;
  const float* bias;
  Output out;
};

/// The weights and their parameters, by blocks of lanes.
struct Weights {
  std::vector<int16_t> packed;  // [block][pair][plane][weight_position]
  std::vector<float> scale, offset, bias;
  std::vector<int64_t> zero_code, by_tap;  // by_tap: [tap][channel], for corrections
  int64_t block_size = 0, padded = 0;
  int planes = 1;
};

struct Tap {
  AxisTap row, col;
};

Weights pack_weights(const RowProblem& p, const std::vector<Tap>& taps, int lanes) {
  Weights weights;
  weights.padded = round_up(p.channels, lanes);
  weights.planes = static_cast<int>(code_size(p.w.type));
  const auto pairs = static_cast<int64_t>(taps.size() + 1) / 2;
  weights.block_size = pairs * weights.planes * 2 * lanes;
  const auto padded = static_cast<size_t>(weights.padded);
  weights.packed.assign(static_cast<size_t>(weights.padded / lanes * weights.block_size), 0);
  weights.scale.assign(padded, 1.0F);
  weights.offset.assign(padded, 0.0F);
  weights.zero_code.assign(padded, 0);
  weights.bias.assign(padded, 0.0F);
  weights.by_tap.assign(taps.size() * padded, 0);
  for (int64_t c = 0; c < p.channels; ++c) {
    const auto index = static_cast<size_t>(c);
    const QuantParams& params = params_of(p.w, c);
    weights.scale[index] = params.scale;
    weights.offset[index] = params.offset;
    weights.zero_code[index] = params.zero_code;
    if (p.bias) weights.bias[index] = p.bias[c];
    for (size_t t = 0; t < taps.size(); ++t) {
      const int64_t code =
          code_at(p.w, c * p.kernel_taps + taps[t].row.kernel * p.kernel_width + taps[t].col.kernel);
      weights.by_tap[t * padded + index] = code;
      int16_t* pair = weights.packed.data() + c / lanes * weights.block_size +
                      static_cast<int64_t>(t) / 2 * weights.planes * 2 * lanes;
      const int position = weight_position(lanes, static_cast<int>(c % lanes), static_cast<int>(t % 2));
      pair[position] = static_cast<int16_t>(weights.planes == 2 ? code >> 8 : code);
      if (weights.planes == 2) pair[2 * lanes + position] = static_cast<int16_t>(code & 255);
    }
  }
  return weights;
}

/// The outputs of one residue along both axes.
class RowPhase {
 public:
  RowPhase(const DepthwiseKernels& kernels, const RowProblem& problem, const Pixels& pixels,
           const Axis& vertical, const Axis& horizontal)
      : kernels_(kernels), p_(problem), pixels_(pixels), v_(vertical), h_(horizontal) {
    for (const AxisTap& r : v_.taps) {
      for (const AxisTap& s : h_.taps) taps_.push_back({r, s});
    }
    corrected_ = needs_corrections(p_.a, p_.w);
    weights_ = pack_weights(p_, taps_, kernels_.lanes);
  }

  void run() const {
    parallel_for(p_.batch * v_.positions, 1, [&](int64_t begin, int64_t end) {
      RowState state;
      for (int64_t i = begin; i < end; ++i) run_row(i / v_.positions, i % v_.positions, state);
    });
  }

 private:
  struct RowState {
    std::vector<const uint8_t*> taps;
    std::vector<int64_t> weight_sums, counts;
    std::vector<const int64_t*> weight_sum_of;
  };

  int64_t pairs() const { return static_cast<int64_t>(taps_.size() + 1) / 2; }
  bool inside(int64_t v, int64_t h, const Tap& tap) const {
    return v_.inside(v_.input(v, tap.row)) && h_.inside(h_.input(h, tap.col));
  }

  void find_taps(int64_t n, int64_t v, RowState& state) const {
    state.taps.assign(static_cast<size_t>(h_.positions * 2 * pairs()), pixels_.zeros());
    for (int64_t h = 0; h < h_.positions; ++h) {
      for (size_t t = 0; t < taps_.size(); ++t) {
        if (!inside(v, h, taps_[t])) continue;
        state.taps[static_cast<size_t>(h * 2 * pairs()) + t] =
            pixels_.at(n, v_.input(v, taps_[t].row), h_.input(h, taps_[t].col));
      }
    }
  }

  /// Sums of the weights over each pixel's valid taps; neighbours mostly share theirs.
  void sum_weights(int64_t v, RowState& state) const {
    const auto padded = static_cast<size_t>(weights_.padded);
    state.weight_sums.assign(static_cast<size_t>(h_.positions) * padded, 0);
    state.counts.assign(static_cast<size_t>(h_.positions), 0);
    state.weight_sum_of.assign(static_cast<size_t>(h_.positions), nullptr);
    std::vector<bool> valid(taps_.size()), previous;
    for (int64_t h = 0; h < h_.positions; ++h) {
      const auto pixel = static_cast<size_t>(h);
      for (size_t t = 0; t < taps_.size(); ++t) valid[t] = inside(v, h, taps_[t]);
      state.counts[pixel] = std::ranges::count(valid, true);
      if (h > 0 && valid == previous) {
        state.weight_sum_of[pixel] = state.weight_sum_of[pixel - 1];
        continue;
      }
      int64_t* sums = state.weight_sums.data() + pixel * padded;
      for (size_t t = 0; t < taps_.size(); ++t) {
        if (!valid[t]) continue;
        for (size_t c = 0; c < padded; ++c) sums[c] += weights_.by_tap[t * padded + c];
      }
      state.weight_sum_of[pixel] = sums;
      previous = valid;
    }
  }

  void run_row(int64_t n, int64_t v, RowState& state) const {
    find_taps(n, v, state);
    if (corrected_) sum_weights(v, state);
    const QuantParams& params = params_of(p_.a, n);
    const int64_t out_row = v_.out_first + v * v_.out_step;
    const int64_t out = ((n * p_.out_height + out_row) * p_.out_width + h_.out_first) * p_.channels;
    const int64_t out_size = p_.out.type == OutputType::kFloat32 ? 4 : 2;
    RowTask task{.taps = state.taps.data(),
                 .pixels = h_.positions,
                 .pairs = pairs(),
                 .type = p_.a.type,
                 .weight_planes = weights_.planes,
                 .output_stride = h_.out_step * p_.channels,
                 .output_type = p_.out.type,
                 .scale = params.scale,
                 .corrected = corrected_,
                 .offset = params.offset,
                 .zero_code = params.zero_code,
                 .counts = state.counts.data()};
    for (int64_t first = 0; first < p_.channels; first += kernels_.lanes) {
      task.tap_offset = first * code_size(p_.a.type);
      task.weights = weights_.packed.data() + first / kernels_.lanes * weights_.block_size;
      task.output = static_cast<uint8_t*>(p_.out.data) + (out + first) * out_size;
      task.channels = std::min<int64_t>(kernels_.lanes, p_.channels - first);
      task.weight_scale = weights_.scale.data() + first;
      task.weight_offset = weights_.offset.data() + first;
      task.weight_zero_code = weights_.zero_code.data() + first;
      task.bias = p_.bias ? weights_.bias.data() + first : nullptr;
      task.weight_sums = state.weight_sum_of.data();
      task.first_channel = first;
      kernels_.row(task);
    }
  }

  const DepthwiseKernels& kernels_;
  const RowProblem& p_;
  const Pixels& pixels_;
  const Axis& v_;
  const Axis& h_;
  std::vector<Tap> taps_;
  Weights weights_;
  bool corrected_ = false;
};

void run_rows(const DepthwiseKernels& kernels, const RowProblem& problem, const std::vector<Axis>& rows,
              const std::vector<Axis>& cols) {
  const Pixels pixels(problem.a, problem.in_height, problem.in_width, problem.channels, problem.batch,
                      kernels.lanes);
  for (const Axis& v : rows) {
    for (const Axis& h : cols) RowPhase(kernels, problem, pixels, v, h).run();
  }
}

// ---- weight gradient ----

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

void forward(const ConvShape& s, const Operand& x, const Operand& w, const float* bias, const Output& y) {
  if (vector::supports_depthwise(s, x, w)) {
    vector::active_engine()->depthwise_rows(vector::depthwise_forward(s, x, w, bias, y));
    return;
  }
  run_rows(*kernels_of(active_isa()),
           {.batch = s.batch,
            .in_height = s.in_height,
            .in_width = s.in_width,
            .out_height = s.out_height(),
            .out_width = s.out_width(),
            .channels = s.in_channels,
            .kernel_width = s.kernel_width,
            .kernel_taps = s.kernel_height * s.kernel_width,
            .a = x,
            .w = w,
            .bias = bias,
            .out = y},
           {forward_axis(vertical(s))}, {forward_axis(horizontal(s))});
}

void backward_data(const ConvShape& s, const Operand& dy, const Operand& w, const Output& dx) {
  if (vector::supports_depthwise(s, dy, w)) {
    vector::active_engine()->depthwise_rows(vector::depthwise_backward_data(s, dy, w, dx));
    return;
  }
  run_rows(*kernels_of(active_isa()),
           {.batch = s.batch,
            .in_height = s.out_height(),
            .in_width = s.out_width(),
            .out_height = s.in_height,
            .out_width = s.in_width,
            .channels = s.in_channels,
            .kernel_width = s.kernel_width,
            .kernel_taps = s.kernel_height * s.kernel_width,
            .a = dy,
            .w = w,
            .bias = nullptr,
            .out = dx},
           backward_data_axes(vertical(s)), backward_data_axes(horizontal(s)));
}

void backward_weight(const ConvShape& s, const Operand& x, const Operand& dy, float* dw) {
  if (vector::supports_depthwise(s, x, dy)) {
    vector::active_engine()->depthwise_gradient({s, x, dy, dw});
    return;
  }
  Gradient(*kernels_of(active_isa()), s, x, dy).run(dw);
}

}  // namespace

bool supports(const ConvShape& shape, Isa isa) {
  return shape.groups > 1 && shape.groups == shape.in_channels && shape.in_channels == shape.out_channels &&
         shape.kernel_height * shape.kernel_width <= kMaxProducts && kernels_of(isa) != nullptr;
}

const Conv2dKernels kConv2d = {forward, backward_data, backward_weight};

}  // namespace bitdial::kernels::depthwise
