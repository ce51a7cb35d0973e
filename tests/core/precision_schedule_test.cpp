#include "bitdial/core/precision_schedule.h"

#include <gtest/gtest.h>

#include <vector>

#include "bitdial/core/error.h"

namespace bitdial {
namespace {

/// One row of the schedule vectors of CPT's specification, for cycles of 2000 iterations.
struct CyclicVector {
  int minimum, maximum;
  std::vector<int64_t> starts;   ///< first iteration of each level within a cycle
  std::vector<int64_t> lengths;  ///< iterations per level
  double mean, mean_square;      ///< as printed
  double precision;              ///< half a unit of the last printed digit of mean_square
};

const std::vector<CyclicVector> kVectors{
    {3, 8, {0, 410, 739, 1000, 1262, 1591}, {410, 329, 261, 262, 329, 409}, 5.4990, 33.604, 5e-4},
    {4, 8, {0, 461, 840, 1161, 1540}, {461, 379, 321, 379, 460}, 5.9990, 38.209, 5e-4},
    {3, 6, {0, 536, 1001, 1465}, {536, 465, 464, 535}, 4.4990, 21.562, 5e-4},
    {4, 6, {0, 667, 1334}, {667, 667, 666}, 4.9995, 25.6615, 5e-5},
    {3, 4, {0, 1000}, {1000, 1000}, 3.5, 12.5, 1e-12},
    {5, 8, {0, 536, 1001, 1465}, {536, 465, 464, 535}, 6.4990, 43.558, 5e-4},
    {5, 6, {0, 1000}, {1000, 1000}, 5.5, 30.5, 1e-12},
};

TEST(PrecisionSchedule, CyclicBitsFollowThePublishedVectors) {
  for (const CyclicVector& vector : kVectors) {
    SCOPED_TRACE(vector.minimum * 10 + vector.maximum);
    const BitSchedule schedule = BitSchedule::cyclic(64000, 32, vector.minimum, vector.maximum, 8);
    ASSERT_EQ(schedule.iterations(), 64000);
    ASSERT_EQ(schedule.stretches().size(), 32 * vector.starts.size());
    double sum = 0.0;
    double squares = 0.0;
    int64_t start = 0;
    for (size_t i = 0; i < schedule.stretches().size(); ++i) {
      const BitStretch& stretch = schedule.stretches()[i];
      const size_t level = i % vector.starts.size();
      EXPECT_EQ(start % 2000, vector.starts[level]);
      EXPECT_EQ(stretch.iterations, vector.lengths[level]);
      EXPECT_EQ(stretch.forward, vector.minimum + static_cast<int>(level));
      EXPECT_EQ(stretch.gradient, 8);
      start += stretch.iterations;
      sum += static_cast<double>(stretch.iterations) * stretch.forward;
      squares += static_cast<double>(stretch.iterations) * stretch.forward * stretch.forward;
    }
    EXPECT_NEAR(sum / 64000, vector.mean, 5e-5);
    EXPECT_NEAR(squares / 64000, vector.mean_square, vector.precision * 1.001);
  }
}

TEST(PrecisionSchedule, TheRemainderStartsAnotherRamp) {
  // 120 ImageNet epochs of 5005 iterations: 24 are left over and run at the lower bound.
  EXPECT_EQ(cyclic_bits(32 * 18768 - 1, 600600, 32, 4, 8), 8);
  for (const int64_t t : {600576, 600599}) EXPECT_EQ(cyclic_bits(t, 600600, 32, 4, 8), 4);
}

TEST(PrecisionSchedule, TiesGoToTheEvenWordLength) {
  EXPECT_EQ(cyclic_bits(1000, 64000, 32, 3, 8), 6);  // 5.5
  EXPECT_EQ(cyclic_bits(1000, 64000, 32, 3, 6), 4);  // 4.5
}

TEST(PrecisionSchedule, StretchesOfEqualBitsMergeAndEmptyOnesVanish) {
  BitSchedule schedule;
  schedule.append({5, 8, 8});
  schedule.append({0, 4, 8});
  schedule.append({3, 8, 8});
  schedule.append({2, 4, 8});
  EXPECT_EQ(schedule.stretches(), (std::vector<BitStretch>{{8, 8, 8}, {2, 4, 8}}));
  EXPECT_EQ(schedule.at(7).forward, 8);
  EXPECT_EQ(schedule.at(8).forward, 4);
  EXPECT_EQ(schedule.at(100).forward, 4);
}

TEST(PrecisionSchedule, ImpossibleSchedulesAreErrors) {
  EXPECT_THROW(cyclic_bits(-1, 64000, 32, 3, 8), Error);
  EXPECT_THROW(cyclic_bits(0, 31, 32, 3, 8), Error);
  EXPECT_THROW(cyclic_bits(0, 64000, 0, 3, 8), Error);
  EXPECT_THROW(cyclic_bits(0, 64000, 32, 8, 3), Error);
  EXPECT_THROW(cyclic_bits(0, 64000, 32, 1, 3), Error);
  EXPECT_THROW(BitSchedule().at(0), Error);
  EXPECT_THROW(BitSchedule().append({-1, 8, 8}), Error);
  EXPECT_THROW(BitSchedule().append({1, 33, 8}), Error);
}

}  // namespace
}  // namespace bitdial
