#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "bitdial/core/random.h"
#include "bitdial/data/dataset.h"

namespace bitdial::data {

/// Mean and standard deviation per channel of values in [0, 1]; images of one channel use the first.
struct ChannelStatistics {
  std::array<float, 3> mean{0.0F, 0.0F, 0.0F};
  std::array<float, 3> deviation{1.0F, 1.0F, 1.0F};
  bool operator==(const ChannelStatistics&) const = default;
};

/// What happens to an image on its way into a batch, in this order: (random resized crop | as stored), random
/// crop with padding, flip, normalise.
struct Augmentation {
  bool random_resized_crop = false;  ///< area 8..100 %, aspect ratio 3/4..4/3 of the stored image
  int crop_padding = 0;              ///< black border on each side before a random crop of the original size
  bool horizontal_flip = false;      ///< with probability 1/2
  ChannelStatistics statistics{};
};

/// The mean and deviation that published recipes use for a data set; ImageNet's for image-folder.
ChannelStatistics channel_statistics(std::string_view dataset);

/// The published recipe of a data set: augmentation for training, normalisation alone for testing.
Augmentation default_augmentation(std::string_view dataset, Split split);

/// The stream of random bits that augments one epoch.
RandomKey augmentation_key(uint64_t seed, int64_t epoch);

/// Prepares images of one data set. Random choices are a function of (key, image index) alone, so they are
/// the same for any number of workers, any batch size, and after resuming.
class Augmenter {
 public:
  Augmenter(ImageShape shape, const Augmentation& augmentation);

  /// Image i as shape() float32 values, height x width x channels, (value / 255 - mean) / deviation.
  /// `scratch` holds shape().elements() bytes.
  void operator()(const Dataset& dataset, int64_t i, RandomKey key, uint8_t* scratch, float* hwc) const;

 private:
  void normalize(const uint8_t* image, int64_t shift_x, int64_t shift_y, bool flip, float* hwc) const;

  ImageShape shape_;
  Augmentation augmentation_;
  std::array<std::array<float, 256>, 3> table_;  // normalised value of each 8-bit value
};

}  // namespace bitdial::data
