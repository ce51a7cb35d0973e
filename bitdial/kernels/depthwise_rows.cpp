#include <algorithm>
#include <vector>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/depthwise_general.h"

namespace bitdial::kernels::depthwise {
namespace {

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

}  // namespace

void run_rows(const DepthwiseKernels& kernels, const RowProblem& problem, const std::vector<Axis>& rows,
              const std::vector<Axis>& cols) {
  const Pixels pixels(problem.a, problem.in_height, problem.in_width, problem.channels, problem.batch,
                      kernels.lanes);
  for (const Axis& v : rows) {
    for (const Axis& h : cols) RowPhase(kernels, problem, pixels, v, h).run();
  }
}

}  // namespace bitdial::kernels::depthwise
