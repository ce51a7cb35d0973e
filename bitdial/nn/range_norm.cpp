#include "bitdial/nn/range_norm.h"

#include <algorithm>
#include <vector>

#include "bitdial/core/parallel.h"

namespace bitdial::nn {
namespace {

constexpr int64_t kBlockRows = 512;

int64_t blocks_of(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

// add(row, sums of the row's block) over a fixed partition; the blocks' sums are added in order.
template <int kSums, class Add>
std::vector<double> column_sums(const RangeNormShape& shape, const Add& add) {
  const int64_t width = kSums * shape.channels;
  std::vector<double> partial(static_cast<size_t>(blocks_of(shape.rows) * width), 0.0);
  parallel_for(blocks_of(shape.rows), 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t end = std::min(shape.rows, (block + 1) * kBlockRows);
      for (int64_t row = block * kBlockRows; row < end; ++row) add(row, partial.data() + block * width);
    }
  });
  std::vector<double> sums(static_cast<size_t>(width), 0.0);
  for (size_t i = 0; i < partial.size(); ++i) sums[i % static_cast<size_t>(width)] += partial[i];
  return sums;
}

}  // namespace

void range_norm_statistics(const RangeNormShape& shape, const float* x, float* mean, int32_t* argmax,
                           int32_t* argmin) {
  const int64_t channels = shape.channels;
  const auto sums = column_sums<1>(shape, [&](int64_t row, double* sum) {
    for (int64_t c = 0; c < channels; ++c) sum[c] += static_cast<double>(x[row * channels + c]);
  });
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<float>(sums[static_cast<size_t>(c)] / static_cast<double>(shape.rows));
  }
  const int64_t length = shape.rows / shape.chunks;
  parallel_for(shape.chunks, 1, [&](int64_t first, int64_t last) {
    std::vector<float> high(static_cast<size_t>(channels)), low(static_cast<size_t>(channels));
    for (int64_t chunk = first; chunk < last; ++chunk) {
      int32_t* const top = argmax + chunk * channels;
      int32_t* const bottom = argmin + chunk * channels;
      const int64_t begin = chunk * length;
      std::copy_n(x + begin * channels, channels, high.begin());
      std::copy_n(x + begin * channels, channels, low.begin());
      std::fill_n(top, channels, static_cast<int32_t>(begin));
      std::fill_n(bottom, channels, static_cast<int32_t>(begin));
      for (int64_t row = begin + 1; row < begin + length; ++row) {
        const float* const values = x + row * channels;
        const auto index = static_cast<int32_t>(row);
        for (int64_t c = 0; c < channels; ++c) {
          const auto i = static_cast<size_t>(c);
          top[c] = values[c] > high[i] ? index : top[c];
          high[i] = values[c] > high[i] ? values[c] : high[i];
          bottom[c] = values[c] < low[i] ? index : bottom[c];
          low[i] = values[c] < low[i] ? values[c] : low[i];
        }
      }
    }
  });
}

void range_norm_apply(const RangeNormShape& shape, const float* x, const float* mean, const float* scale,
                      const float* shift, float* y) {
  const int64_t channels = shape.channels;
  parallel_for(blocks_of(shape.rows), 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first * kBlockRows; row < std::min(shape.rows, last * kBlockRows); ++row) {
      const int64_t at = row * channels;
      for (int64_t c = 0; c < channels; ++c) y[at + c] = (x[at + c] - mean[c]) * scale[c] + shift[c];
    }
  });
}

void range_norm_backward_sums(const RangeNormShape& shape, const float* x, const float* mean, const float* g,
                              double* sum_g, double* sum_gx) {
  const int64_t channels = shape.channels;
  const auto sums = column_sums<2>(shape, [&](int64_t row, double* sum) {
    const int64_t at = row * channels;
    for (int64_t c = 0; c < channels; ++c) sum[c] += static_cast<double>(g[at + c]);
    for (int64_t c = 0; c < channels; ++c) {
      sum[channels + c] += static_cast<double>(g[at + c]) * static_cast<double>(x[at + c] - mean[c]);
    }
  });
  std::copy_n(sums.begin(), channels, sum_g);
  std::copy_n(sums.begin() + channels, channels, sum_gx);
}

void range_norm_backward_apply(const RangeNormShape& shape, const float* g, const float* mean_g,
                               const float* scale, const float* kick, const int32_t* argmax,
                               const int32_t* argmin, float* dx) {
  const int64_t channels = shape.channels;
  parallel_for(blocks_of(shape.rows), 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first * kBlockRows; row < std::min(shape.rows, last * kBlockRows); ++row) {
      const int64_t at = row * channels;
      for (int64_t c = 0; c < channels; ++c) dx[at + c] = (g[at + c] - mean_g[c]) * scale[c];
    }
  });
  for (int64_t i = 0; i < shape.chunks * channels; ++i) {
    const int64_t c = i % channels;
    dx[argmax[i] * channels + c] += kick[c];
    dx[argmin[i] * channels + c] -= kick[c];
  }
}

}  // namespace bitdial::nn
