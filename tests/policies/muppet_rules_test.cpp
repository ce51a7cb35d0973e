#include "bitdial/policies/muppet_rules.h"

#include <gtest/gtest.h>

#include <vector>

#include "bitdial/policies/vector_sums.h"

namespace bitdial::policies {
namespace {

TEST(MuppetRules, ThresholdDecaysToOne) {
  const MuppetThreshold T;
  EXPECT_EQ(T(0), 2.5);
  EXPECT_NEAR(T(10), 1.5518, 5e-5);
  EXPECT_NEAR(T(20), 1.2030, 5e-5);
  EXPECT_NEAR(T(40), 1.0275, 5e-5);
}

double diversity_of(DiversityWindow window, const std::vector<std::vector<float>>& gradients) {
  GradientDiversity diversity(window, 3, 3);
  for (const auto& gradient : gradients) diversity.add(gradient);
  EXPECT_TRUE(diversity.is_full());
  return diversity.value();
}

TEST(MuppetRules, DiversityOfEqualAndOfOrthogonalGradients) {
  const std::vector<float> g{1.0F, -2.0F, 0.5F};
  EXPECT_NEAR(diversity_of(DiversityWindow::kDisjoint, {g, g, g}), 1.0 / 3.0, 1e-12);
  EXPECT_NEAR(diversity_of(DiversityWindow::kSliding, {g, g, g, g}), 1.0 / 4.0, 1e-12);
  EXPECT_EQ(diversity_of(DiversityWindow::kDisjoint, {{2, 0, 0}, {0, 2, 0}, {0, 0, 2}}), 1.0);
  EXPECT_EQ(diversity_of(DiversityWindow::kDisjoint, {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}}), 1.0 / 3.0);
}

TEST(MuppetRules, SlidingWindowsShareOneGradient) {
  GradientDiversity sliding(DiversityWindow::kSliding, 3, 2);
  for (const std::vector<float>& g : std::vector<std::vector<float>>{{9, 9}, {9, 9}, {9, 9}, {1, 0}}) {
    sliding.add(g);
  }
  sliding.restart();
  EXPECT_EQ(sliding.count(), 1);
  for (const std::vector<float>& g : std::vector<std::vector<float>>{{1, 0}, {0, 1}, {0, 1}}) sliding.add(g);
  EXPECT_EQ(sliding.value(), 4.0 / 8.0);  // four unit gradients, sum (2, 2)
  GradientDiversity disjoint(DiversityWindow::kDisjoint, 3, 2);
  for (int i = 0; i < 3; ++i) disjoint.add(std::vector<float>{9, 9});
  disjoint.restart();
  EXPECT_EQ(disjoint.count(), 0);
  for (const float x : disjoint.values()) EXPECT_EQ(x, 0.0F);
}

TEST(MuppetRules, ViolationsAddUpUntilThePatienceIsOver) {
  ViolationCount count;
  EXPECT_FALSE(count.add(1.0, 1.5, 2));  // the first evaluation sets the maximum
  EXPECT_FALSE(count.add(0.5, 1.5, 2));  // 2 > 1.5
  EXPECT_EQ(count.violations, 1);
  EXPECT_FALSE(count.add(0.9, 1.5, 2));  // a good one does not reset
  EXPECT_EQ(count.violations, 1);
  EXPECT_FALSE(count.add(1.2, 1.5, 2));
  EXPECT_EQ(count.max_gd, 1.2);
  EXPECT_TRUE(count.add(0.7, 1.5, 2));
  EXPECT_EQ(count, ViolationCount{});
}

TEST(MuppetRules, ALevelLastsAtLeastThreeEvaluations) {
  // Even if GD falls at every evaluation: the first after a switch sets the maximum, two violate.
  ViolationCount count;
  int evaluations = 0;
  double gd = 1e6;
  do {
    gd /= 10.0;
    ++evaluations;
  } while (!count.add(gd, 2.5, 2));
  EXPECT_EQ(evaluations, 3);
}

// The float32 epochs of a run from `lr` to `min_lr`.
int64_t float_epochs(double lr, double min_lr, bool released) {
  FloatPhase phase;
  while (true) {
    switch (phase.end_epoch(lr, min_lr, 15, released)) {
      case FloatPhase::Next::kGoOn:
        break;
      case FloatPhase::Next::kLowerRate:
        lr *= 0.1;
        break;
      case FloatPhase::Next::kStop:
        return phase.epochs;
    }
  }
}

TEST(MuppetRules, ReleasedStopTestComparesBinaryNumbers) {
  EXPECT_EQ(float_epochs(0.1, 1e-3, false), 45);
  EXPECT_EQ(float_epochs(0.1, 1e-3, true), 60);  // 0.1 * 0.1 * 0.1 > 0.001 in binary
  for (const bool released : {false, true}) EXPECT_EQ(float_epochs(0.01, 1e-4, released), 45);
  for (const bool released : {false, true}) EXPECT_EQ(float_epochs(0.001, 1e-5, released), 45);
}

TEST(MuppetRules, SumsOfAnyLength) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{15}, size_t{16}, size_t{50}}) {
    std::vector<float> x(size, -2.0F);
    EXPECT_EQ(squared_norm(x), 4.0 * static_cast<double>(size));
    if (size > 2) x[2] = 0.0F;
    EXPECT_EQ(magnitude(x).zeros, size > 2 ? 1 : 0);
    EXPECT_EQ(magnitude(x).abs_sum, 2.0 * static_cast<double>(size > 2 ? size - 1 : size));
  }
}

}  // namespace
}  // namespace bitdial::policies
