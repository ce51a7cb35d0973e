#include "bitdial/data/augmentation.h"

#include <array>
#include <cmath>
#include <mutex>

#include "bitdial/data/memory_dataset.h"
#include "helpers.h"

namespace bitdial::data {
namespace {

// `count` images of height x width whose values are all different from 0.
MemoryDataset numbered(int count, int64_t channels, int64_t height, int64_t width) {
  const ImageShape shape{channels, height, width};
  Bytes images(static_cast<size_t>(count * shape.elements()));
  for (size_t i = 0; i < images.size(); ++i) images[i] = static_cast<uint8_t>(1 + i * 7 % 255);
  return {shape, std::move(images), std::vector<int32_t>(static_cast<size_t>(count)), {"only"}};
}

std::vector<float> augment(const Dataset& dataset, const Augmentation& augmentation, int64_t i,
                           RandomKey key) {
  const auto elements = static_cast<size_t>(dataset.shape().elements());
  Bytes scratch(elements);
  std::vector<float> out(elements);
  Augmenter(dataset.shape(), augmentation)(dataset, i, key, scratch.data(), out.data());
  return out;
}

// Values back to 0..255 for statistics of mean 0 and deviation 1.
int level(float value) { return static_cast<int>(std::lround(value * 255)); }

TEST(Augmentation, NormalisesEachChannel) {
  const MemoryDataset dataset = numbered(1, 3, 2, 2);
  const auto statistics = channel_statistics("cifar10");
  const auto out = augment(dataset, default_augmentation("cifar10", Split::kTest), 0, {});
  Bytes image(12);
  dataset.read(0, image.data());
  for (size_t i = 0; i < image.size(); ++i) {
    const size_t c = i % 3;
    EXPECT_EQ(out[i], (static_cast<float>(image[i]) / 255.0F - statistics.mean[c]) / statistics.deviation[c]);
  }
}

TEST(Augmentation, DefaultsAreThePublishedRecipes) {
  for (const char* name : {"cifar10", "cifar100"}) {
    const Augmentation train = default_augmentation(name, Split::kTrain);
    EXPECT_EQ(train.crop_padding, 4);
    EXPECT_TRUE(train.horizontal_flip);
    EXPECT_FALSE(train.random_resized_crop);
    EXPECT_EQ(train.statistics.mean, (std::array{0.4914F, 0.4822F, 0.4465F}));
    EXPECT_EQ(train.statistics.deviation, (std::array{0.2023F, 0.1994F, 0.2010F}));
    const Augmentation test = default_augmentation(name, Split::kTest);
    EXPECT_EQ(test.crop_padding, 0);
    EXPECT_FALSE(test.horizontal_flip);
  }
  for (const char* name : {"mnist", "fashion-mnist", "emnist"}) {
    const Augmentation train = default_augmentation(name, Split::kTrain);
    EXPECT_EQ(train.crop_padding, 0);
    EXPECT_FALSE(train.horizontal_flip);
    EXPECT_EQ(train.statistics.mean[0], 0.1307F);
    EXPECT_EQ(train.statistics.deviation[0], 0.3081F);
  }
  EXPECT_TRUE(default_augmentation("image-folder", Split::kTrain).random_resized_crop);
  for (const auto& name : dataset_names()) EXPECT_NO_THROW(default_augmentation(name, Split::kTrain));
  expect_error([] { channel_statistics("nothing"); }, "'nothing'");
}

// Which (shift y, shift x, flip) of the padded image gives `out`; fails when none or several do.
std::array<int, 3> find_transform(const Bytes& image, int size, const std::vector<float>& out, int padding) {
  std::array<int, 3> found{};
  int matches = 0;
  for (int dy = -padding; dy <= padding; ++dy) {
    for (int dx = -padding; dx <= padding; ++dx) {
      for (int flip = 0; flip < 2; ++flip) {
        bool same = true;
        for (int y = 0; y < size && same; ++y) {
          for (int x = 0; x < size && same; ++x) {
            const int from_y = y + dy;
            const int from_x = (flip != 0 ? size - 1 - x : x) + dx;
            const bool inside = from_y >= 0 && from_y < size && from_x >= 0 && from_x < size;
            const int expected = inside ? image[static_cast<size_t>(from_y * size + from_x)] : 0;
            same = level(out[static_cast<size_t>(y * size + x)]) == expected;
          }
        }
        if (same) {
          ++matches;
          found = {dy, dx, flip};
        }
      }
    }
  }
  EXPECT_EQ(matches, 1);
  return found;
}

TEST(Augmentation, CropsAndFlipsUniformly) {
  constexpr int kSize = 8;
  constexpr int kDraws = 4000;
  const MemoryDataset dataset = numbered(kDraws, 1, kSize, kSize);
  const Augmentation augmentation{.crop_padding = 2, .horizontal_flip = true};
  std::array<std::array<int, 5>, 2> shifts{};
  int flips = 0;
  Bytes image(kSize * kSize);
  for (int i = 0; i < kDraws; ++i) {
    dataset.read(i, image.data());
    const auto [dy, dx, flip] = find_transform(image, kSize, augment(dataset, augmentation, i, {3, 4}), 2);
    ++shifts[0][static_cast<size_t>(dy + 2)];
    ++shifts[1][static_cast<size_t>(dx + 2)];
    flips += flip;
  }
  EXPECT_NEAR(flips, kDraws / 2, 150);  // 4.7 standard deviations
  for (const auto& axis : shifts) {
    for (int count : axis) EXPECT_NEAR(count, kDraws / 5, 120);
  }
}

TEST(Augmentation, DependsOnSeedEpochAndImageOnly) {
  const MemoryDataset dataset = numbered(40, 3, 32, 32);
  const Augmentation augmentation = default_augmentation("cifar10", Split::kTrain);
  int same_epoch = 0;
  int same_seed = 0;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    const auto first = augment(dataset, augmentation, i, augmentation_key(7, 3));
    EXPECT_EQ(first, augment(dataset, augmentation, i, augmentation_key(7, 3)));
    same_epoch += first == augment(dataset, augmentation, i, augmentation_key(7, 4)) ? 1 : 0;
    same_seed += first == augment(dataset, augmentation, i, augmentation_key(8, 3)) ? 1 : 0;
  }
  EXPECT_LE(same_epoch, 4);  // 1 in 162 by chance
  EXPECT_LE(same_seed, 4);
}

// Records the regions that are asked for; its stored images are 300 x 200.
class RegionRecorder : public MemoryDataset {
 public:
  RegionRecorder() : MemoryDataset(numbered(1, 3, 4, 4)) {}
  void read_region(int64_t, const RectChooser& choose, uint8_t*) const override {
    regions.push_back(choose(300, 200));
  }
  mutable std::vector<Rect> regions;
};

TEST(Augmentation, ResizedCropsCoverTheRecipesRanges) {
  const RegionRecorder dataset;
  for (int64_t i = 0; i < 3000; ++i) augment(dataset, {.random_resized_crop = true}, i, {1, 2});
  double smallest = 1;
  double largest = 0;
  double narrowest = 10;
  double widest = 0;
  for (const Rect& r : dataset.regions) {
    ASSERT_GE(r.x, 0);
    ASSERT_GE(r.y, 0);
    ASSERT_LE(r.x + r.width, 300);
    ASSERT_LE(r.y + r.height, 200);
    smallest = std::min(smallest, r.width * r.height / 60000);
    largest = std::max(largest, r.width * r.height / 60000);
    narrowest = std::min(narrowest, r.width / r.height);
    widest = std::max(widest, r.width / r.height);
  }
  EXPECT_NEAR(smallest, 0.08, 0.01);
  EXPECT_GT(largest, 0.85);
  EXPECT_LE(largest, 1.0);
  EXPECT_NEAR(narrowest, 0.75, 0.03);
  EXPECT_NEAR(widest, 1.333, 0.04);
}

TEST(Augmentation, RefusesWhatCannotBe) {
  expect_error([] { Augmenter({3, 8, 8}, {.crop_padding = 9}); }, "crop padding is 9, expected 0..8");
  expect_error([] { Augmenter({3, 8, 8}, {.crop_padding = -1}); }, "crop padding is -1");
  expect_error([] { Augmenter({4, 8, 8}, {}); }, "4 channels");
  Augmentation zero;
  zero.statistics.deviation[1] = 0;
  expect_error([&] { Augmenter({3, 8, 8}, zero); }, "channel 1", "deviation > 0");
}

}  // namespace
}  // namespace bitdial::data
