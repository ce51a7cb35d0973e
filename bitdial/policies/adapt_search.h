#pragma once

#include <cstdint>
#include <functional>
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

/// A length that a search looked at, and the loss there: KL (nat), or the released surrogate.
struct Candidate {
  int length = 0;
  double loss = 0.0;
  bool operator==(const Candidate&) const = default;
};

/// What PushDown decided, and the candidates of both searches in the order that it looked at them.
struct PushDownResult {
  FixedPoint format;
  std::vector<Candidate> FL, WL;
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

/// Whether a histogram's loss says that a format is too coarse.
bool is_lost(double loss, const PushDownOptions& options);

/// PushDown's rule: the least <WL,FL> that loses nothing, never more than `current`, except that an FL below
/// fl_min is lifted to it. `loss` is asked for each candidate in turn.
PushDownResult push_down(FixedPoint current, const PushDownOptions& options,
                         const std::function<double(FixedPoint)>& loss);

/// The same by histograms of `weights` with r bins. Random bits of evaluation k: key of `counters` with call
/// k.
PushDownResult push_down(std::span<const float> weights, FixedPoint current, int r,
                         const PushDownOptions& options, RandomCounters counters);

/// The older PushUp of unquantised gradients (adapt.md, `kl_gradients`): FL goes up by one, or WL once FL has
/// reached it, while a gathered gradient's histogram loses information and FL <= 31, WL <= 32.
bool can_be_raised(FixedPoint format);
FixedPoint raised(FixedPoint format);

/// What a gathered gradient wants, and the loss of the last format that was looked at.
struct RaisedFormat {
  FixedPoint format;
  double loss = 0.0;
};
RaisedFormat raise_for_gradient(std::span<const float> gradient, FixedPoint start, int r,
                                const PushDownOptions& options, RandomCounters counters);

}  // namespace bitdial::policies
