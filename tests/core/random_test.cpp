#include "bitdial/core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <vector>

namespace bitdial {
namespace {

constexpr int64_t kCount = 1 << 20;

/// Keys of neighbouring tensors, steps and seeds: the streams that must not resemble each other.
std::vector<RandomKey> neighbouring_keys() {
  std::vector<RandomKey> keys;
  for (uint64_t seed = 0; seed < 2; ++seed) {
    for (uint64_t step = 0; step < 2; ++step) {
      for (uint32_t layer = 0; layer < 2; ++layer) {
        for (uint32_t tensor = 0; tensor < 2; ++tensor) {
          keys.push_back(random_key({.seed = seed, .step = step, .layer = layer, .tensor = tensor}));
        }
      }
    }
  }
  return keys;
}

/// Correlation of two sequences of uniform numbers, whose mean is 1/2 and whose variance is 1/12.
template <class First, class Second>
double correlation(First first, Second second) {
  double sum = 0.0;
  for (int64_t i = 0; i < kCount; ++i) sum += (first(i) - 0.5) * (second(i) - 0.5);
  return 12.0 * sum / kCount;
}

auto stream(RandomKey key, int64_t shift = 0) {
  return
      [=](int64_t i) { return static_cast<double>(random_uniform(key, static_cast<uint64_t>(i + shift))); };
}

const double kSigma = 1.0 / std::sqrt(static_cast<double>(kCount));

TEST(Random, UniformNumbersHaveTheirMoments) {
  for (const RandomKey key : neighbouring_keys()) {
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < kCount; ++i) {
      const double u = stream(key)(i);
      ASSERT_TRUE(u >= 0.0 && u < 1.0);
      sum += u;
      squares += (u - 0.5) * (u - 0.5);
    }
    EXPECT_NEAR(sum / kCount, 0.5, 4.5 * kSigma / std::sqrt(12.0));
    EXPECT_NEAR(squares / kCount, 1.0 / 12.0, 4.5 * kSigma / std::sqrt(180.0));
  }
}

TEST(Random, EveryBitIsBalancedAndIndependentOfItsNeighbours) {
  for (const RandomKey key : neighbouring_keys()) {
    std::vector<int64_t> ones(32), equal_to_next(32);
    for (int64_t i = 0; i < kCount; ++i) {
      const uint32_t bits = random_bits(key, static_cast<uint64_t>(i));
      const uint32_t same = ~(bits ^ std::rotr(bits, 1));
      for (size_t b = 0; b < 32; ++b) {
        ones[b] += (bits >> b) & 1U;
        equal_to_next[b] += (same >> b) & 1U;
      }
    }
    for (size_t b = 0; b < 32; ++b) {
      EXPECT_NEAR(static_cast<double>(ones[b]) / kCount, 0.5, 4.5 * 0.5 * kSigma) << "bit " << b;
      EXPECT_NEAR(static_cast<double>(equal_to_next[b]) / kCount, 0.5, 4.5 * 0.5 * kSigma) << "bit " << b;
    }
  }
}

// 64 cells: chi-squared with 63 degrees of freedom lies in (24, 120) but once in 10^5.
TEST(Random, CellsAreEquallyFull) {
  for (const RandomKey key : neighbouring_keys()) {
    std::vector<double> cells(64);
    for (int64_t i = 0; i < kCount; ++i) cells[random_bits(key, static_cast<uint64_t>(i)) >> 26] += 1.0;
    double chi_squared = 0.0;
    for (const double cell : cells)
      chi_squared += (cell - kCount / 64.0) * (cell - kCount / 64.0) / (kCount / 64.0);
    EXPECT_GT(chi_squared, 24.0);
    EXPECT_LT(chi_squared, 120.0);
  }
}

// Neighbours in a row, in a column of an image, and in a channel.
TEST(Random, NeighboursAreUncorrelated) {
  for (const RandomKey key : neighbouring_keys()) {
    for (const int64_t shift : {1, 2, 3, 4, 8, 16, 32, 56, 64, 224, 1024, 65536}) {
      EXPECT_NEAR(correlation(stream(key), stream(key, shift)), 0.0, 4.5 * kSigma) << "shift " << shift;
    }
  }
}

TEST(Random, StreamsOfDifferentKeysAreUncorrelated) {
  const auto keys = neighbouring_keys();
  for (size_t a = 0; a < keys.size(); ++a) {
    for (size_t b = 0; b < a; ++b) {
      EXPECT_NEAR(correlation(stream(keys[a]), stream(keys[b])), 0.0, 4.5 * kSigma) << a << " " << b;
    }
  }
}

TEST(Random, IndicesBeyond32BitsHaveTheirOwnNumbers) {
  const RandomKey key = random_key({.seed = 9});
  EXPECT_NEAR(correlation(stream(key), stream(key, int64_t{1} << 32)), 0.0, 4.5 * kSigma);
  EXPECT_NEAR(correlation(stream(key), stream(key, int64_t{5} << 32)), 0.0, 4.5 * kSigma);
}

TEST(Random, EveryCounterChangesTheKey) {
  std::set<std::pair<uint32_t, uint32_t>> keys;
  const auto add = [&](RandomCounters counters) {
    const RandomKey key = random_key(counters);
    keys.emplace(key.a, key.b);
  };
  size_t expected = 1;
  add({});
  for (const uint64_t value : {1ULL, 2ULL, 0x100000000ULL}) {
    add({.seed = value});
    add({.step = value});
    expected += 2;
  }
  for (const uint32_t value : {1U, 2U, 3U}) {
    add({.micro_batch = value});
    add({.layer = value});
    add({.tensor = value});
    add({.call = value});
    expected += 4;
  }
  EXPECT_EQ(keys.size(), expected);
}

// Checkpoints continue with the same bits: these numbers are part of the format.
TEST(Random, StreamsDoNotChangeBetweenVersions) {
  const RandomKey key =
      random_key({.seed = 1, .step = 2, .micro_batch = 3, .layer = 4, .tensor = 1, .call = 5});
  EXPECT_EQ(key.a, 0x595B9E30U);
  EXPECT_EQ(key.b, 0x229C90DCU);
  EXPECT_EQ(random_bits(key, 0), 0xDCE39BD5U);
  EXPECT_EQ(random_bits(key, 1), 0x13002752U);
  EXPECT_EQ(random_bits(key, 0x123456789ABULL), 0x4349D3B5U);
}

}  // namespace
}  // namespace bitdial
