#include "bitdial/data/augmentation.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/data/resize.h"

namespace bitdial::data {
namespace {

// Which draw of an image's stream decides what. Each image owns kDraws consecutive draws.
enum Draw : uint64_t { kCropX, kCropY, kFlip, kResizedCrop, kDraws = 64 };

constexpr int kCropAttempts = 10;
constexpr double kSmallestArea = 0.08;  // share of the image (RandomResizedCrop of ImageNet recipes)
constexpr double kWidestRatio = 4.0 / 3.0;

class ImageDraws {
 public:
  ImageDraws(RandomKey key, int64_t image) : key_(key), base_(static_cast<uint64_t>(image) * kDraws) {}
  double uniform(uint64_t draw) const {
    return static_cast<double>(random_bits(key_, base_ + draw)) * 0x1p-32;
  }
  bool coin(uint64_t draw) const { return (random_bits(key_, base_ + draw) >> 31) != 0; }
  // 0 .. bound - 1
  int64_t below(int64_t bound, uint64_t draw) const {
    return static_cast<int64_t>((uint64_t{random_bits(key_, base_ + draw)} * static_cast<uint64_t>(bound)) >>
                                32);
  }

 private:
  RandomKey key_;
  uint64_t base_;
};

// A rectangle of random area and aspect ratio that fits; the whole image, narrowed to the allowed ratio, when
// ten attempts do not.
Rect random_rect(int64_t width, int64_t height, const ImageDraws& draws) {
  const auto w = static_cast<double>(width);
  const auto h = static_cast<double>(height);
  for (int attempt = 0; attempt < kCropAttempts; ++attempt) {
    const uint64_t draw = kResizedCrop + static_cast<uint64_t>(4 * attempt);
    const double area = w * h * (kSmallestArea + (1 - kSmallestArea) * draws.uniform(draw));
    const double ratio = std::exp(std::log(kWidestRatio) * (2 * draws.uniform(draw + 1) - 1));
    const double crop_w = std::round(std::sqrt(area * ratio));
    const double crop_h = std::round(std::sqrt(area / ratio));
    if (crop_w < 1 || crop_h < 1 || crop_w > w || crop_h > h) continue;
    return {std::floor(draws.uniform(draw + 2) * (w - crop_w + 1)),
            std::floor(draws.uniform(draw + 3) * (h - crop_h + 1)), crop_w, crop_h};
  }
  const double crop_w = std::min(w, h * kWidestRatio);
  const double crop_h = std::min(h, w * kWidestRatio);
  return {(w - crop_w) / 2, (h - crop_h) / 2, crop_w, crop_h};
}

struct KnownStatistics {
  std::string_view dataset;
  ChannelStatistics statistics;
};

// CIFAR and MNIST as in the published recipes of AdaPT, MuPPET, CPT and FracTrain; ImageNet's for
// photographs.
constexpr KnownStatistics kKnown[] = {
    {"cifar10", {{0.4914F, 0.4822F, 0.4465F}, {0.2023F, 0.1994F, 0.2010F}}},
    {"cifar100", {{0.4914F, 0.4822F, 0.4465F}, {0.2023F, 0.1994F, 0.2010F}}},
    {"mnist", {{0.1307F, 0.1307F, 0.1307F}, {0.3081F, 0.3081F, 0.3081F}}},
    {"fashion-mnist", {{0.1307F, 0.1307F, 0.1307F}, {0.3081F, 0.3081F, 0.3081F}}},
    {"emnist", {{0.1307F, 0.1307F, 0.1307F}, {0.3081F, 0.3081F, 0.3081F}}},
    {"image-folder", {{0.485F, 0.456F, 0.406F}, {0.229F, 0.224F, 0.225F}}},
    {"shapes", {{0.5F, 0.5F, 0.5F}, {0.25F, 0.25F, 0.25F}}},
};

}  // namespace

ChannelStatistics channel_statistics(std::string_view dataset) {
  for (const auto& known : kKnown) {
    if (known.dataset == dataset) return known.statistics;
  }
  fail("augmentation", "no mean and deviation are known for data set '{}'", dataset);
}

Augmentation default_augmentation(std::string_view dataset, Split split) {
  Augmentation augmentation;
  augmentation.statistics = channel_statistics(dataset);
  if (split == Split::kTest) return augmentation;
  const bool cifar = dataset == "cifar10" || dataset == "cifar100";
  augmentation.crop_padding = cifar ? 4 : 0;
  augmentation.random_resized_crop = dataset == "image-folder";
  augmentation.horizontal_flip = cifar || dataset == "image-folder";
  return augmentation;
}

Augmenter::Augmenter(ImageShape shape, const Augmentation& augmentation)
    : shape_(shape), augmentation_(augmentation) {
  require(augmentation.crop_padding >= 0 && augmentation.crop_padding <= std::min(shape.height, shape.width),
          "augmentation", "crop padding is {}, expected 0..{}", augmentation.crop_padding,
          std::min(shape.height, shape.width));
  require(shape.channels == 1 || shape.channels == 3, "augmentation",
          "images have {} channels, expected 1 or 3", shape.channels);
  for (size_t c = 0; c < 3; ++c) {
    const float mean = augmentation.statistics.mean[c];
    const float deviation = augmentation.statistics.deviation[c];
    require(deviation > 0 && std::isfinite(deviation) && std::isfinite(mean), "augmentation",
            "channel {} has mean {} and deviation {}, expected finite and deviation > 0", c, mean, deviation);
    for (size_t v = 0; v < 256; ++v) table_[c][v] = (static_cast<float>(v) / 255.0F - mean) / deviation;
  }
}

void Augmenter::operator()(const Dataset& dataset, int64_t i, RandomKey key, uint8_t* scratch,
                           float* hwc) const {
  const ImageDraws draws(key, i);
  if (augmentation_.random_resized_crop) {
    dataset.read_region(
        i, [&](int64_t width, int64_t height) { return random_rect(width, height, draws); }, scratch);
  } else {
    dataset.read(i, scratch);
  }
  const int64_t padding = augmentation_.crop_padding;
  const int64_t shift_x = padding > 0 ? draws.below(2 * padding + 1, kCropX) - padding : 0;
  const int64_t shift_y = padding > 0 ? draws.below(2 * padding + 1, kCropY) - padding : 0;
  normalize(scratch, shift_x, shift_y, augmentation_.horizontal_flip && draws.coin(kFlip), hwc);
}

// Output pixel (y, x) is stored pixel (y + shift_y, x + shift_x), black outside; the flip mirrors the result.
void Augmenter::normalize(const uint8_t* image, int64_t shift_x, int64_t shift_y, bool flip,
                          float* hwc) const {
  const auto [channels, height, width] = shape_;
  for (int64_t y = 0; y < height; ++y) {
    const int64_t row = y + shift_y;
    const bool row_inside = row >= 0 && row < height;
    for (int64_t x = 0; x < width; ++x) {
      const int64_t column = (flip ? width - 1 - x : x) + shift_x;
      const bool inside = row_inside && column >= 0 && column < width;
      const int64_t pixel = (row * width + column) * channels;
      for (int64_t c = 0; c < channels; ++c) {
        *hwc++ = table_[static_cast<size_t>(c)][inside ? image[pixel + c] : 0];
      }
    }
  }
}

}  // namespace bitdial::data
