#include "bitdial/data/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "bitdial/core/error.h"

namespace bitdial::data {
namespace {

// The source pixels that make one output pixel along one axis: weights[k] belongs to source pixel first + k.
struct Taps {
  int64_t first = 0;
  std::vector<float> weights;
};

// Triangle filter over source pixels 0 .. size - 1 for `count` outputs that cover [origin, origin + extent).
std::vector<Taps> triangle_taps(double origin, double extent, int64_t size, int64_t count) {
  const double scale = extent / static_cast<double>(count);
  const double radius = std::max(scale, 1.0);
  std::vector<Taps> all(static_cast<size_t>(count));
  for (int64_t o = 0; o < count; ++o) {
    const double center = origin + (static_cast<double>(o) + 0.5) * scale;
    Taps& taps = all[static_cast<size_t>(o)];
    taps.first = std::clamp<int64_t>(static_cast<int64_t>(std::floor(center - radius + 0.5)), 0, size - 1);
    const int64_t last =
        std::clamp<int64_t>(static_cast<int64_t>(std::floor(center + radius + 0.5)), 1, size);
    double sum = 0;
    for (int64_t s = taps.first; s < std::max(last, taps.first + 1); ++s) {
      const double distance = std::abs((static_cast<double>(s) + 0.5 - center) / radius);
      const double weight = std::max(0.0, 1.0 - distance);
      taps.weights.push_back(static_cast<float>(weight));
      sum += weight;
    }
    if (sum <= 0) {  // the filter lies outside the image: repeat the border
      std::fill(taps.weights.begin(), taps.weights.end(), 0.0F);
      (center < 0 ? taps.weights.front() : taps.weights.back()) = 1.0F;
      sum = 1;
    }
    for (float& weight : taps.weights) weight = static_cast<float>(weight / sum);
  }
  return all;
}

// One image row through the horizontal taps.
void filter_row(const uint8_t* row, int64_t channels, const std::vector<Taps>& taps, float* out) {
  for (const Taps& t : taps) {
    for (int64_t c = 0; c < channels; ++c) {
      const uint8_t* source = row + t.first * channels + c;
      float sum = 0;
      for (size_t k = 0; k < t.weights.size(); ++k) {
        sum += t.weights[k] * static_cast<float>(source[static_cast<int64_t>(k) * channels]);
      }
      *out++ = sum;
    }
  }
}

}  // namespace

void resize_region(const ImageView& image, Rect region, int64_t height, int64_t width, uint8_t* hwc) {
  const auto [channels, rows, columns] = image.shape;
  const double x = std::clamp(region.x, 0.0, static_cast<double>(columns));
  const double y = std::clamp(region.y, 0.0, static_cast<double>(rows));
  const double w = std::min(region.width, static_cast<double>(columns) - x);
  const double h = std::min(region.height, static_cast<double>(rows) - y);
  require(w > 0 && h > 0 && height > 0 && width > 0, "resize",
          "region {}x{} at ({}, {}) of a {}x{} image is empty", region.width, region.height, region.x,
          region.y, columns, rows);

  const auto across = triangle_taps(x, w, columns, width);
  const auto down = triangle_taps(y, h, rows, height);
  const int64_t first = down.front().first;
  const int64_t last = down.back().first + static_cast<int64_t>(down.back().weights.size());
  const int64_t stride = width * channels;
  std::vector<float> filtered(static_cast<size_t>((last - first) * stride));
  for (int64_t r = first; r < last; ++r) {
    filter_row(image.hwc + r * columns * channels, channels, across, filtered.data() + (r - first) * stride);
  }

  std::vector<float> sums(static_cast<size_t>(stride));
  for (const Taps& t : down) {
    std::fill(sums.begin(), sums.end(), 0.0F);
    for (size_t k = 0; k < t.weights.size(); ++k) {
      const float* row = filtered.data() + (t.first - first + static_cast<int64_t>(k)) * stride;
      for (int64_t i = 0; i < stride; ++i) sums[static_cast<size_t>(i)] += t.weights[k] * row[i];
    }
    for (float sum : sums) *hwc++ = static_cast<uint8_t>(std::clamp(sum + 0.5F, 0.0F, 255.0F));
  }
}

Rect center_square(int64_t width, int64_t height, double share) {
  const double side = share * static_cast<double>(std::min(width, height));
  return {(static_cast<double>(width) - side) / 2, (static_cast<double>(height) - side) / 2, side, side};
}

}  // namespace bitdial::data
