#include "bitdial/data/loader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>
#include <thread>

#include "bitdial/data/memory_dataset.h"
#include "bitdial/data/subset.h"
#include "helpers.h"

namespace bitdial::data {
namespace {

std::shared_ptr<const MemoryDataset> numbered(int64_t count) {
  const ImageShape shape{3, 8, 8};
  Bytes images(static_cast<size_t>(count * shape.elements()));
  for (size_t i = 0; i < images.size(); ++i) images[i] = static_cast<uint8_t>(i / 192 + i * 13);
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < count; ++i) labels.push_back(static_cast<int32_t>(i % 5));
  return std::make_shared<MemoryDataset>(shape, std::move(images), std::move(labels),
                                         std::vector<std::string>{"a", "b", "c", "d", "e"});
}

const Augmentation kAugmentation{.crop_padding = 2, .horizontal_flip = true};

std::vector<Batch> epoch(Loader& loader, int64_t number, int64_t first = 0) {
  std::vector<Batch> batches;
  loader.start_epoch(number, first);
  while (auto batch = loader.next()) batches.push_back(std::move(*batch));
  return batches;
}

void expect_same(const std::vector<Batch>& a, const std::vector<Batch>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].index, b[i].index);
    EXPECT_EQ(a[i].size, b[i].size);
    EXPECT_EQ(a[i].samples, b[i].samples);
    EXPECT_EQ(a[i].labels, b[i].labels);
    EXPECT_EQ(a[i].images, b[i].images);
  }
}

TEST(EpochOrder, IsTheDocumentedShuffle) {
  const RandomKey key =
      random_key({.seed = 5, .step = 9, .micro_batch = 0, .layer = 0xFFFFFFFFU, .tensor = 0, .call = 0});
  std::vector<int64_t> expected(1000);
  for (int64_t i = 0; i < 1000; ++i) expected[static_cast<size_t>(i)] = i;
  for (uint64_t i = 999; i > 0; --i) {
    const uint64_t u = uint64_t{random_bits(key, 2 * i)} << 32 | random_bits(key, 2 * i + 1);
    std::swap(expected[i],
              expected[static_cast<size_t>((static_cast<unsigned __int128>(u) * (i + 1)) >> 64)]);
  }
  EXPECT_EQ(epoch_order(1000, 5, 9), expected);
}

TEST(EpochOrder, IsAPermutationOfItsOwnForEachSeedAndEpoch) {
  std::set<std::vector<int64_t>> orders;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    for (int64_t number = 0; number < 4; ++number) {
      auto order = epoch_order(97, seed, number);
      EXPECT_TRUE(orders.insert(order).second);
      std::sort(order.begin(), order.end());
      for (int64_t i = 0; i < 97; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
    }
  }
  EXPECT_EQ(epoch_order(1, 0, 0), std::vector<int64_t>{0});
}

// Every image is first about equally often.
TEST(EpochOrder, IsUniform) {
  std::array<int, 10> first{};
  for (int64_t number = 0; number < 10000; ++number)
    ++first[static_cast<size_t>(epoch_order(10, 1, number)[0])];
  for (int count : first) EXPECT_NEAR(count, 1000, 140);  // 4.7 standard deviations
}

TEST(Loader, GivesEveryImageOnce) {
  const auto dataset = numbered(103);
  Loader loader(dataset, {.batch_size = 10, .workers = 2});
  EXPECT_EQ(loader.batches(), 11);
  const auto batches = epoch(loader, 0);
  ASSERT_EQ(batches.size(), 11U);
  EXPECT_EQ(batches.back().size, 3);
  EXPECT_EQ(batches.back().images.size(), 3U * 192);
  std::set<int64_t> seen;
  for (const Batch& batch : batches) {
    for (size_t i = 0; i < batch.labels.size(); ++i) {
      EXPECT_TRUE(seen.insert(batch.samples[i]).second);
      EXPECT_EQ(batch.labels[i], dataset->label(batch.samples[i]));
      Bytes image(192);
      dataset->read(batch.samples[i], image.data());
      EXPECT_EQ(batch.images[i * 192 + 50], static_cast<float>(image[50]) / 255.0F);
    }
  }
  EXPECT_EQ(seen.size(), 103U);
}

TEST(Loader, KeepsTheOrderWithoutShuffling) {
  Loader loader(numbered(25), {.batch_size = 10, .shuffle = false, .drop_last = true});
  EXPECT_EQ(loader.batches(), 2);
  for (int64_t number = 0; number < 2; ++number) {
    int64_t expected = 0;
    for (const Batch& batch : epoch(loader, number)) {
      EXPECT_EQ(batch.size, 10);
      for (int64_t sample : batch.samples) EXPECT_EQ(sample, expected++);
    }
    EXPECT_EQ(expected, 20);
  }
}

TEST(Loader, IsTheSameForAnyNumberOfWorkers) {
  const auto dataset = numbered(200);
  Loader reference(dataset, {.batch_size = 16, .seed = 3, .workers = 0, .augmentation = kAugmentation});
  const auto expected = epoch(reference, 2);
  for (const int workers : {1, 2, 5}) {
    for (const int prefetch : {1, 3, 50}) {
      Loader loader(dataset, {.batch_size = 16,
                              .seed = 3,
                              .workers = workers,
                              .prefetch = prefetch,
                              .augmentation = kAugmentation});
      expect_same(epoch(loader, 2), expected);
    }
  }
}

// The augmentation of an image does not depend on which batch it falls into.
TEST(Loader, AugmentsAlikeForAnyBatchSize) {
  const auto dataset = numbered(60);
  Loader small(dataset, {.batch_size = 7, .seed = 3, .augmentation = kAugmentation});
  Loader large(dataset, {.batch_size = 60, .seed = 3, .augmentation = kAugmentation});
  std::vector<float> all;
  for (const Batch& batch : epoch(small, 1)) all.insert(all.end(), batch.images.begin(), batch.images.end());
  EXPECT_EQ(all, epoch(large, 1).front().images);
}

TEST(Loader, ResumesWithinAnEpoch) {
  const auto dataset = numbered(100);
  const LoaderOptions options{.batch_size = 8, .seed = 1, .workers = 2, .augmentation = kAugmentation};
  Loader whole(dataset, options);
  Loader resumed(dataset, options);
  const auto all = epoch(whole, 4);
  const auto tail = epoch(resumed, 4, 5);
  ASSERT_EQ(tail.size(), 8U);
  expect_same(tail, {all.begin() + 5, all.end()});
  EXPECT_TRUE(epoch(resumed, 4, 13).empty());
}

TEST(Loader, StartsOverAtAnyPoint) {
  const auto dataset = numbered(64);
  Loader loader(dataset, {.batch_size = 4, .workers = 3, .prefetch = 3, .augmentation = kAugmentation});
  EXPECT_FALSE(loader.next().has_value());
  Loader reference(dataset, {.batch_size = 4, .workers = 0, .augmentation = kAugmentation});
  for (int64_t number = 0; number < 50; ++number) {
    loader.start_epoch(number);
    for (int64_t taken = 0; taken < number % 7; ++taken) ASSERT_TRUE(loader.next().has_value());
  }
  expect_same(epoch(loader, 7), epoch(reference, 7));
  EXPECT_FALSE(loader.next().has_value());
  EXPECT_FALSE(loader.next().has_value());
}

TEST(Loader, EndsAtAnyPoint) {
  const auto dataset = numbered(64);
  for (int round = 0; round < 50; ++round) {
    Loader loader(dataset, {.batch_size = 4, .workers = 3, .prefetch = 1 + round % 4});
    if (round % 3 != 0) loader.start_epoch(round);
    for (int taken = 0; taken < round % 5 && round % 3 != 0; ++taken) loader.next();
  }
}

TEST(Loader, UsesTheMemoryOfGivenBackBatches) {
  Loader loader(numbered(100), {.batch_size = 10, .workers = 1, .prefetch = 2});
  std::set<const float*> buffers;
  for (int64_t number = 0; number < 5; ++number) {
    loader.start_epoch(number);
    while (auto batch = loader.next()) {
      buffers.insert(batch->images.data());
      loader.recycle(std::move(*batch));
    }
  }
  EXPECT_LE(buffers.size(), 5U);
}

// Fails at one image; counts what is read.
class Failing : public MemoryDataset {
 public:
  explicit Failing(int64_t count, int64_t bad) : MemoryDataset(*numbered(count)), bad_(bad) {}
  void read(int64_t i, uint8_t* hwc) const override {
    ++reads;
    if (i == bad_) fail("test", "image {} is bad", i);
    MemoryDataset::read(i, hwc);
  }
  mutable std::atomic<int64_t> reads{0};

 private:
  int64_t bad_;
};

TEST(Loader, ThrowsAWorkersErrorInItsPlace) {
  for (const int workers : {0, 1, 4}) {
    Loader loader(std::make_shared<Failing>(80, 43),
                  {.batch_size = 10, .shuffle = false, .workers = workers});
    for (int round = 0; round < 3; ++round) {
      loader.start_epoch(round);
      for (int64_t b = 0; b < 4; ++b) EXPECT_EQ(loader.next()->index, b);
      expect_error([&] { loader.next(); }, "image 43 is bad");
      EXPECT_FALSE(loader.next().has_value());
    }
    loader.start_epoch(0, 5);
    EXPECT_EQ(loader.next()->index, 5);
  }
}

// Works ahead without being asked, but never by more than `prefetch` batches.
TEST(Loader, PrefetchesAndStopsAtTheBound) {
  const auto dataset = std::make_shared<Failing>(1000, -1);
  Loader loader(dataset, {.batch_size = 10, .workers = 3, .prefetch = 4});
  loader.start_epoch(0);
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (dataset->reads < 40 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  EXPECT_EQ(dataset->reads, 40);
  for (int64_t taken = 1; taken <= 20; ++taken) {
    ASSERT_TRUE(loader.next().has_value());
    EXPECT_LE(dataset->reads, (taken + 4) * 10);
  }
}

TEST(Loader, RefusesWhatCannotBe) {
  const auto dataset = numbered(10);
  const auto make = [](std::shared_ptr<const Dataset> d, LoaderOptions o) {
    Loader loader(std::move(d), std::move(o));
  };
  expect_error([&] { make(nullptr, {}); }, "[loader]");
  expect_error([&] { make(std::make_shared<Subset>(dataset, std::vector<int64_t>{}), {}); }, "no images");
  expect_error([&] { make(dataset, {.batch_size = 0}); }, "batch size is 0");
  expect_error([&] { make(dataset, {.workers = -1}); }, "-1 workers");
  expect_error([&] { make(dataset, {.prefetch = 0}); }, "prefetch is 0");
  expect_error([&] { make(dataset, {.batch_size = 11, .drop_last = true}); }, "batches of 11", "10 images");
  expect_error([&] { make(dataset, {.augmentation = {.crop_padding = 30}}); }, "crop padding is 30");
  Loader loader(dataset, {.batch_size = 5});
  expect_error([&] { loader.start_epoch(0, 3); }, "first batch is 3, expected 0..2");
  expect_error([&] { loader.start_epoch(-1); }, "epoch is -1");
}

}  // namespace
}  // namespace bitdial::data
