#include "bitdial/kernels/channel_sums.h"

#include <algorithm>
#include <bit>

#include "bitdial/kernels/workspace.h"

namespace bitdial::kernels {
namespace {

constexpr int64_t kTaskPixels = 1024;
constexpr int64_t kFloatPixels = 32;  // what one float32 sum covers

float value_of(float stored) { return stored; }
float value_of(uint16_t stored) { return std::bit_cast<float>(static_cast<uint32_t>(stored) << 16); }

/// Adds to sums[0, channels) and squares[0, channels), `part` is scratch for two floats a channel.
template <class T>
void add_pixels(const T* y, int64_t pixels, int64_t channels, const float* shift, float* part, double* sums,
                double* squares) {
  float* part_squares = part + channels;
  for (int64_t begin = 0; begin < pixels; begin += kFloatPixels) {
    std::fill_n(part, 2 * channels, 0.0F);
    for (int64_t i = begin; i < std::min(begin + kFloatPixels, pixels); ++i) {
      for (int64_t k = 0; k < channels; ++k) {
        const float d = value_of(y[i * channels + k]) - shift[k];
        part[k] += d;
        part_squares[k] += d * d;
      }
    }
    for (int64_t k = 0; k < channels; ++k) sums[k] += part[k];
    for (int64_t k = 0; k < channels; ++k) squares[k] += part_squares[k];
  }
}

}  // namespace

void sum_channels(const Output& y, int64_t pixels, int64_t channels) {
  Workspace workspace;
  const int64_t tasks = (pixels + kTaskPixels - 1) / kTaskPixels;
  auto* partial = workspace.take<double>(tasks * 2 * channels);
  auto* shift = workspace.take<float>(channels);
  for (int64_t k = 0; k < channels; ++k) shift[k] = y.sums->shift ? y.sums->shift[k] : 0.0F;
  run_tasks(tasks, [&](int64_t task) {
    Workspace scratch;
    auto* part = scratch.take<float>(2 * channels);
    double* sums = partial + task * 2 * channels;
    std::fill_n(sums, 2 * channels, 0.0);
    const int64_t first = task * kTaskPixels;
    const int64_t count = std::min(kTaskPixels, pixels - first);
    if (y.type == OutputType::kFloat32) {
      const auto* values = static_cast<const float*>(y.data) + first * channels;
      add_pixels(values, count, channels, shift, part, sums, sums + channels);
    } else {
      const auto* values = static_cast<const uint16_t*>(y.data) + first * channels;
      add_pixels(values, count, channels, shift, part, sums, sums + channels);
    }
  });
  add_partial_sums(*y.sums, partial, tasks, channels);
}

void add_partial_sums(const ChannelSums& sums, const double* partial, int64_t parts, int64_t channels) {
  std::fill_n(sums.sum, channels, 0.0);
  std::fill_n(sums.sum_squares, channels, 0.0);
  for (int64_t part = 0; part < parts; ++part) {
    const double* from = partial + part * 2 * channels;
    for (int64_t k = 0; k < channels; ++k) sums.sum[k] += from[k];
    for (int64_t k = 0; k < channels; ++k) sums.sum_squares[k] += from[channels + k];
  }
}

}  // namespace bitdial::kernels
