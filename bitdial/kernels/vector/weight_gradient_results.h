#pragma once

#include "bitdial/kernels/vector/weight_gradient.h"

// From int32 sums to dw.
namespace bitdial::kernels::vector {

template <class Isa>
void WeightGradient<Isa>::finish(const PanelSpan& panel, int64_t tap, const ChannelSpan& channels,
                                 const Sums& sums) const {
  constexpr int64_t kChannels = Isa::kWidth;
  alignas(64) float values[kChannels * kMaxLanes];
  alignas(64) int32_t starts[kMaxLanes];
  const bool fast = !wide_ && pairs_ == 1 && !needs_x_sums_ && zero_x_ >= 0 && zero_x_ < 256;
  for (int64_t k = 0; k < panel.lanes; ++k) {
    const double sum = tap_dy_sums_[tap * padded_columns_ + panel.begin + k];
    starts[k] = static_cast<int32_t>(fast ? -zero_x_ * static_cast<int64_t>(sum) : 0);
  }
  for (int64_t c = channels.begin; c < channels.end; c += kChannels) {
    const int64_t count = std::min(kChannels, channels.end - c);
    for (int64_t i = 0; i < count; ++i) {
      if (fast) {
        finish_fast(sums, panel, tap, c + i, starts, values + i * kMaxLanes);
      } else if (wide_) {
        finish_channel<int64_t>(sums.wide, sums.parts, panel, tap, c + i, values + i * kMaxLanes);
      } else {
        finish_channel<double>(sums.narrow, sums.parts, panel, tap, c + i, values + i * kMaxLanes);
      }
    }
    store_channels(panel, tap, c, count, values);
  }
}

template <class Isa>
void WeightGradient<Isa>::store_channels(const PanelSpan& panel, int64_t tap, int64_t channel, int64_t count,
                                         const float* values) const {
  const int64_t stride = taps_ * p_.channels;
  float* target = p_.dw + panel.begin * stride + tap * p_.channels + channel;
  for (int64_t k = 0; k < panel.columns; k += Isa::kWidth) {
    if (count == Isa::kWidth && k + Isa::kWidth <= panel.columns) {
      Isa::transpose(values + k, kMaxLanes, target + k * stride, stride);
      continue;
    }
    for (int64_t i = k; i < std::min<int64_t>(k + Isa::kWidth, panel.columns); ++i) {
      for (int64_t c = 0; c < count; ++c) target[i * stride + c] = values[c * kMaxLanes + i];
    }
  }
}

template <class Isa>
void WeightGradient<Isa>::finish_fast(const Sums& sums, const PanelSpan& panel, int64_t tap, int64_t channel,
                                      const int32_t* starts, float* values) const {
  const int32_t* first = sums.narrow + (sums_row(0, tap) + channel) * panel.lanes;
  alignas(64) float scales[Isa::kWidth];
  std::fill_n(scales, Isa::kWidth, p_.x.params[0].scale * p_.dy.params[0].scale);
  const typename Isa::Float scale = Isa::load(scales);
  for (int64_t k = 0; k < panel.lanes; k += Isa::kWidth) {
    typename Isa::Sum sum = Isa::load(starts + k);
    for (int64_t part = 0; part < sums.parts; ++part) {
      sum = Isa::add(sum, Isa::load(first + part * sums_size_ * panel.lanes + k));
    }
    Isa::store(values + k, Isa::multiply(Isa::to_float(sum), scale), Isa::kWidth);
  }
}

template <class Isa>
template <class Number, class Part>
void WeightGradient<Isa>::finish_channel(const Part* all, int64_t parts, const PanelSpan& panel, int64_t tap,
                                         int64_t channel, float* values) const {
  alignas(64) Number total[kMaxLanes] = {};
  for (int64_t part = 0; part < parts; ++part) {
    for (int a = 0; a < x_split_.count; ++a) {
      for (int b = 0; b < dy_split_.count; ++b) {
        const int64_t row = part * sums_size_ + sums_row(a * dy_split_.count + b, tap) + channel;
        const Part* sums = all + row * panel.lanes;
        const auto weight = static_cast<Number>(1 << (8 * (a + b)));
        for (int64_t k = 0; k < panel.lanes; ++k) total[k] += weight * static_cast<Number>(sums[k]);
      }
    }
  }
  const double* dy_sums = tap_dy_sums_ + tap * padded_columns_ + panel.begin;
  const auto count = static_cast<Number>(tap_counts_[tap]);
  const auto zero_x = static_cast<Number>(zero_x_);
  const auto zero_dy = static_cast<Number>(zero_dy_);
  const auto sum_x = static_cast<Number>(tap_x_sums_[tap * p_.channels + channel]);
  const Number constant = count * zero_x * zero_dy - zero_dy * sum_x;
  for (int64_t k = 0; k < panel.lanes; ++k) total[k] += constant - zero_x * static_cast<Number>(dy_sums[k]);
  const QuantParams& px = p_.x.params[0];
  const QuantParams& pdy = p_.dy.params[0];
  if (offsets_) {
    const auto own_x = static_cast<double>(sum_x - count * zero_x);
    for (int64_t k = 0; k < panel.lanes; ++k) {
      const auto own_dy = static_cast<double>(static_cast<Number>(dy_sums[k]) - count * zero_dy);
      values[k] =
          with_offsets(px, pdy, static_cast<double>(total[k]), own_x, own_dy, static_cast<double>(count));
    }
    return;
  }
  const float scale = px.scale * pdy.scale;
  for (int64_t k = 0; k < panel.lanes; ++k) values[k] = static_cast<float>(total[k]) * scale;
}

}  // namespace bitdial::kernels::vector
