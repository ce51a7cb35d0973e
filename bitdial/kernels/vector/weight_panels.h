#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "bitdial/kernels/vector/problems.h"
#include "bitdial/kernels/vector/tile.h"
#include "bitdial/kernels/vector/transpose.h"
#include "bitdial/kernels/workspace.h"

namespace bitdial::kernels::vector {

/// The weights of a gathering convolution as signed digits: [panel][digit][tap row][tap column][channel /
/// 4][lanes][4], missing channels and columns zero.
template <class Isa>
class WeightPanels {
 public:
  WeightPanels(const GatherProblem& problem, Workspace& workspace)
      : p_(problem),
        split_(signed_digits(problem.weight.type)),
        quads_((problem.channels + 3) / 4),
        tap_rows_(static_cast<int64_t>(problem.rows.order.size())),
        tap_cols_(static_cast<int64_t>(problem.cols.order.size())),
        taps_(tap_rows_ * tap_cols_),
        spans_(workspace.take<PanelSpan>(panel_count<Isa>(problem.columns))),
        count_(cut_panels<Isa>(problem.columns, spans_)),
        padded_columns_(spans_[count_ - 1].begin + spans_[count_ - 1].lanes),
        tap_sums_(nullptr) {}

  /// Makes them of the problem's codes or, where it has them packed, takes those; panel by panel follow.
  void start(Workspace& workspace) {
    tap_sums_ = workspace.take<int32_t>(taps_ * padded_columns_ * split_.count);
    packed_ = static_cast<const int8_t*>(p_.weight.packed);
    if (packed_ == nullptr) {
      packed_ = own_ = workspace.take<int8_t>(taps_ * quads_ * 4 * padded_columns_ * split_.count);
    }
  }

  void finish(int64_t index) const {
    if (own_ != nullptr) pack(index);
    sum(index);
  }

  /// Output channels [first, last) of signed bytes that fill their groups and lanes: columns in FPROP,
  /// reduced channels in BPROP.
  void pack_outputs(int64_t first, int64_t last, int8_t* packed) const {
    const auto* codes = static_cast<const uint8_t*>(p_.weight.codes);
    for (int64_t i = 0; i < count_; ++i) {
      const PanelSpan& panel = spans_[i];
      const bool by_column = p_.weight_channel == 1;
      const int64_t begin = by_column ? std::max<int64_t>(first - panel.begin, 0) : 0;
      const int64_t end = by_column ? std::min(last - panel.begin, panel.lanes) : panel.lanes;
      for (int64_t tap = 0; begin < end && tap < taps_; ++tap) {
        int8_t* group = packed + place(panel, 0) + tap * quads_ * 4 * panel.lanes;
        if (by_column) {
          interleave_columns(codes + first_code(panel, tap), p_.weight_column, panel, begin, end, group);
        } else {
          interleave_channels(codes + first_code(panel, tap), p_.weight_channel, panel, first / 4, last / 4,
                              group);
        }
      }
    }
  }

  int64_t count() const { return count_; }
  int64_t padded_columns() const { return padded_columns_; }
  const PanelSpan& span(int64_t panel) const { return spans_[panel]; }
  const DigitSplit& split() const { return split_; }

  const int8_t* data(const PanelSpan& panel, int digit) const { return packed_ + place(panel, digit); }
  int64_t digit_bytes(const PanelSpan& panel) const { return taps_ * quads_ * 4 * panel.lanes; }

  /// Per padded column the sum over the channels of one tap, in packed order.
  const int32_t* tap_sums(int digit, int64_t row, int64_t col) const {
    return tap_sums_ + (digit * taps_ + row * tap_cols_ + col) * padded_columns_;
  }

 private:
  int64_t place(const PanelSpan& panel, int digit) const {
    return taps_ * quads_ * 4 * (split_.count * panel.begin + digit * panel.lanes);
  }

  /// Where the codes of a tap of a panel begin.
  int64_t first_code(const PanelSpan& panel, int64_t tap) const {
    return p_.weight_first + p_.rows.order[static_cast<size_t>(tap / tap_cols_)] * p_.weight_row +
           p_.cols.order[static_cast<size_t>(tap % tap_cols_)] * p_.weight_col +
           panel.begin * p_.weight_column;
  }

  void pack(int64_t index) const {
    Workspace workspace;
    const PanelSpan& panel = spans_[index];
    const int64_t plane = panel.lanes * quads_ * 4;
    auto* staged = workspace.take<uint8_t>(split_.count * plane);
    const auto* codes = static_cast<const uint8_t*>(p_.weight.codes);
    // Signed bytes that fill their groups and lanes are read where they lie.
    const bool direct =
        split_.count == 1 && split_.flip[0] == 0 && p_.channels == 4 * quads_ && panel.columns == panel.lanes;
    for (int64_t tap = 0; tap < taps_; ++tap) {
      const int64_t first = first_code(panel, tap);
      if (!direct) stage(panel, first, staged, plane);
      for (int d = 0; d < split_.count; ++d) {
        int8_t* group = own_ + place(panel, d) + tap * quads_ * 4 * panel.lanes;
        const uint8_t* digits = direct ? codes + first : staged + d * plane;
        if (p_.weight_channel == 1) {
          interleave_columns(digits, direct ? p_.weight_column : 4 * quads_, panel, 0, panel.lanes, group);
        } else {
          interleave_channels(digits, direct ? p_.weight_channel : panel.lanes, panel, 0, quads_, group);
        }
      }
    }
  }

  /// Digits of one tap, zeros where channels or columns are missing.
  void stage(const PanelSpan& panel, int64_t first, uint8_t* staged, int64_t plane) const {
    std::memset(staged, 0, static_cast<size_t>(split_.count * plane));
    if (p_.weight_channel == 1) {
      stage_columns(panel, first, staged, plane);
    } else {
      stage_channels(panel, first, staged, plane);
    }
  }

  /// staged[lane][4 * quads]: a column's channels.
  void stage_columns(const PanelSpan& panel, int64_t first, uint8_t* staged, int64_t plane) const {
    for (int64_t k = 0; k < panel.columns; ++k) {
      split_digits<Isa>(split_, p_.weight.codes, first + k * p_.weight_column, p_.channels,
                        staged + k * quads_ * 4, plane);
    }
  }

  /// staged[channel][lanes]: a channel's columns.
  void stage_channels(const PanelSpan& panel, int64_t first, uint8_t* staged, int64_t plane) const {
    for (int64_t c = 0; c < p_.channels; ++c) {
      split_digits<Isa>(split_, p_.weight.codes, first + c * p_.weight_channel, panel.columns,
                        staged + c * panel.lanes, plane);
    }
  }

  /// Columns `stride` bytes apart, each with its channels: 4-byte groups change places. Lanes [begin, end).
  void interleave_columns(const uint8_t* columns, int64_t stride, const PanelSpan& panel, int64_t begin,
                          int64_t end, int8_t* group) const {
    constexpr int64_t kBlock = Isa::kWidth;
    for (int64_t k = begin; k < end; k += kBlock) {
      int64_t c = 0;
      for (; c + kBlock <= quads_; c += kBlock) {
        Isa::transpose_quads(columns + k * stride + 4 * c, stride, group + (c * panel.lanes + k) * 4,
                             4 * panel.lanes);
      }
      for (; c < quads_; ++c) {
        for (int64_t i = k; i < k + kBlock; ++i)
          std::memcpy(group + (c * panel.lanes + i) * 4, columns + i * stride + 4 * c, 4);
      }
    }
  }

  /// Channels `stride` bytes apart, each with its columns. Fours of channels [begin, end).
  void interleave_channels(const uint8_t* channels, int64_t stride, const PanelSpan& panel, int64_t begin,
                           int64_t end, int8_t* group) const {
    for (int64_t c = begin; c < end; ++c) {
      const uint8_t* first = channels + 4 * c * stride;
      const uint8_t* rows[4] = {first, first + stride, first + 2 * stride, first + 3 * stride};
      interleave_4_rows(rows, 0, panel.lanes, group + 4 * c * panel.lanes);
    }
  }

  void sum(int64_t index) const {
    constexpr uint8_t kOnes[4] = {1, 1, 1, 1};
    const typename Isa::Quad ones = Isa::broadcast(kOnes);
    const PanelSpan& panel = spans_[index];
    for (int d = 0; d < split_.count; ++d) {
      for (int64_t tap = 0; tap < taps_; ++tap) {
        const int8_t* group = data(panel, d) + tap * quads_ * 4 * panel.lanes;
        int32_t* sums = tap_sums_ + (d * taps_ + tap) * padded_columns_ + panel.begin;
        for (int64_t k = 0; k < panel.lanes; k += Isa::kWidth) {
          typename Isa::Sum sum = Isa::zero();
          for (int64_t c = 0; c < quads_; ++c)
            sum = Isa::dot(sum, ones, Isa::load_panel(group + (c * panel.lanes + k) * 4));
          Isa::store(sums + k, sum);
        }
      }
    }
  }

  const GatherProblem& p_;
  DigitSplit split_;
  int64_t quads_, tap_rows_, tap_cols_, taps_;
  PanelSpan* spans_;
  int64_t count_, padded_columns_;
  const int8_t* packed_ = nullptr;
  int8_t* own_ = nullptr;
  int32_t* tap_sums_;
};

}  // namespace bitdial::kernels::vector
