#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bitdial/core/random.h"

namespace bitdial::policies {

/// A fixed-point format <WL,FL>: WL bits, sign included, step 2^-FL.
struct FixedPoint {
  int WL = 8;
  int FL = 4;
  bool operator==(const FixedPoint&) const = default;
};

/// How PushDown looks for the least precision (specs: adapt.md, "PushDown").
struct PushDownOptions {
  bool released = false;     ///< the released search and its surrogate loss, not KL and the first that passes
  bool first_slice = false;  ///< look at W[0] only; the caller passes that slice
  bool stochastic = true;    ///< rounding inside the search
  double kl_tol = 5e-2;      ///< nat; the clean search
  int fl_min = 4;            ///< lower end of the search for FL
};

/// What PushDown decided, and from what.
struct PushDownResult {
  FixedPoint format;
  double kl_FL = 0.0;   ///< loss of the chosen FL where it was evaluated: KL (nat), or the surrogate
  double kl_WL = 0.0;   ///< the same of the chosen WL
  int evaluations = 0;  ///< histograms made
};

/// r equal bins from min to max.
struct HistogramBins {
  float min = 0.0F, max = 0.0F;
  float per_value = 0.0F;  ///< r / (max - min)
  int32_t r = 0;
};

/// A tensor's distribution over r equal bins from its minimum to its maximum, to be compared with that of its
/// quantised values. An empty tensor or one of equal values loses nothing in any format.
class HistogramLoss {
 public:
  /// `values` must outlive the object.
  HistogramLoss(std::span<const float> values, int bins);

  /// KL(p||q) in nat: q counts values outside the range in the edge bins, q_b >= 1e-12.
  double kl(FixedPoint format, bool stochastic, RandomKey key) const;
  /// (1/r) sum_b exp(q_b) (q_b - p_b), the released code's loss: no divergence, it may be negative. q counts
  /// only values inside the range.
  double surrogate(FixedPoint format, bool stochastic, RandomKey key) const;

 private:
  std::span<const float> values_;
  HistogramBins bins_;
  std::vector<double> p_;  // shares of the r bins; empty: nothing to lose
};

/// The least <WL,FL> at which the histogram of `weights` (r bins) keeps its information; never more than
/// `current`, except that an FL below fl_min is lifted to it. Random bits of evaluation k: key of `counters`
/// with call k.
PushDownResult push_down(std::span<const float> weights, FixedPoint current, int r,
                         const PushDownOptions& options, RandomCounters counters);

/// Raises FL (WL once FL has reached it) by one until the histogram of `gradient` keeps its information, or
/// FL > 31 or WL > 32: the older PushUp of unquantised gradients (adapt.md, `kl_gradients`).
FixedPoint raise_for_gradient(std::span<const float> gradient, FixedPoint start, int r,
                              const PushDownOptions& options, RandomCounters counters);

}  // namespace bitdial::policies
