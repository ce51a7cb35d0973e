#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "bitdial/train/recipe.h"

namespace bitdial::train {

/// CPT's precision range test, which finds Bmin: from the lowest precision up, the network trains a short
/// window at each, until the training accuracy rises by more than a threshold. CPT's code does not contain
/// it; these constants are those of public re-implementations (docs/policies.md).
struct RangeTestOptions {
  int start = 2;            ///< first precision, bits
  int64_t window = 100;     ///< iterations at each precision
  double threshold = 0.01;  ///< rise of the training accuracy (0..1) that counts as learning
  /// Asked after every iteration; true: return what is known.
  std::function<bool()> stop;
};

struct RangeTestLevel {
  int bits = 0;
  double first_half = 0.0;  ///< mean training accuracy over the first half of the window, 0..1
  double last_half = 0.0;
  double gain() const { return last_half - first_half; }
};

struct RangeTestResult {
  std::vector<RangeTestLevel> levels;
  std::optional<int> minimum;  ///< Bmin; empty: no precision up to Bmax learns, or the test was stopped
  int maximum = 8;             ///< Bmax of the recipe
  int gradient = 8;            ///< gradient bits of the recipe
  bool stopped = false;
};

/// The level of a window's training accuracies, one per iteration (at least 2).
RangeTestLevel summarise_window(int bits, std::span<const double> accuracies);

/// Runs the test with the recipe's data, network, optimiser and the first learning rates of its schedule.
/// Bmax, gradient bits and quantised layers are those of the recipe's policy, which must be `cpt`. Leaves
/// nothing behind.
RangeTestResult range_test(const Recipe& recipe, const RangeTestOptions& options);

}  // namespace bitdial::train
