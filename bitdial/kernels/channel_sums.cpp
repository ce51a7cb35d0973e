#include "bitdial/kernels/channel_sums.h"

#include <algorithm>
#include <bit>

#include "bitdial/kernels/vector/conv2d.h"
#include "bitdial/kernels/workspace.h"

namespace bitdial::kernels {
namespace {

constexpr int64_t kTaskPixels = 1024;
constexpr int64_t kFloatPixels = 32;  // what one float32 sum covers

float value_of(float stored) { return stored; }
float value_of(uint16_t stored) { return std::bit_cast<float>(static_cast<uint32_t>(stored) << 16); }

/// What vector::Engine::sum_floats and sum_halves do.
template <class T>
void add_pixels(const T* y, int64_t pixels, int64_t channels, const float* shift, double* sums,
                double* squares) {
  Workspace workspace;
  auto* part = workspace.take<float>(2 * channels);
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
  const vector::Engine* vectors = vector::active_engine();
  const int64_t tasks = (pixels + kTaskPixels - 1) / kTaskPixels;
  const int64_t stride = (channels + 15) / 16 * 16;
  auto* partial = workspace.take<double>(tasks * 2 * stride);
  auto* shift = workspace.take<float>(stride);
  std::fill_n(shift, stride, 0.0F);
  if (y.sums->shift) std::copy_n(y.sums->shift, channels, shift);
  run_tasks(tasks, [&](int64_t task) {
    double* sums = partial + task * 2 * stride;
    std::fill_n(sums, 2 * stride, 0.0);
    const int64_t first = task * kTaskPixels;
    const int64_t count = std::min(kTaskPixels, pixels - first);
    const auto add = [&](const auto* values, const auto& kernel) {
      kernel(values + first * channels, count, channels, shift, sums, sums + stride);
    };
    if (y.type == OutputType::kFloat32) {
      add(static_cast<const float*>(y.data), vectors ? vectors->sum_floats : add_pixels<float>);
    } else {
      add(static_cast<const uint16_t*>(y.data), vectors ? vectors->sum_halves : add_pixels<uint16_t>);
    }
  });
  add_partial_sums(*y.sums, partial, tasks, channels, stride);
}

void add_partial_sums(const ChannelSums& sums, const double* partial, int64_t parts, int64_t channels,
                      int64_t stride) {
  std::fill_n(sums.sum, channels, 0.0);
  std::fill_n(sums.sum_squares, channels, 0.0);
  for (int64_t part = 0; part < parts; ++part) {
    const double* from = partial + part * 2 * stride;
    for (int64_t k = 0; k < channels; ++k) sums.sum[k] += from[k];
    for (int64_t k = 0; k < channels; ++k) sums.sum_squares[k] += from[stride + k];
  }
}

}  // namespace bitdial::kernels
