#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "bitdial/policies/adapt_search.h"

/// AdaPT's rules as functions of numbers (specs: adapt.md, sources A-opt).
namespace bitdial::policies {

/// How bold PushUp is; the loss history moves it.
enum class AdaptStrategy : uint8_t { kMin, kMean, kMax };
inline constexpr std::array<const char*, 3> kStrategyNames{"min", "mean", "max"};

/// The two published forms of PushUp, and the older one for unquantised gradients.
enum class PushUpForm : uint8_t { kCode, kArxiv, kKlGradients };

struct PushUpOptions {
  PushUpForm form = PushUpForm::kCode;
  int buff = 8;     ///< WL >= FL + buff
  int wl_max = 32;  ///< bound of every length
};

struct PushUpResult {
  FixedPoint format;
  int64_t s = 1, s1 = 0, s2 = 0;  ///< bits added to FL and the two suggestions (0: D gave none)
};

/// D = n / ||sum of unit gradients||; infinite when that is 0.
double adapt_diversity(int64_t n, double norm_of_sum);

/// The format that keeps learning going. `reduced` is PushDown's. Not for kKlGradients.
PushUpResult push_up(double D, FixedPoint reduced, AdaptStrategy strategy, const PushUpOptions& options);

/// kKlGradients: what the gathered gradients' formats agree on.
FixedPoint agree(std::span<const FixedPoint> formats, AdaptStrategy strategy, const PushUpOptions& options);

struct LookbackOptions {
  int lb_lwr = 25, lb_upr = 100;
  double gamma = 0.33;  ///< weight of the new target; 1: no smoothing
};

/// lb = ceil(gamma t + (1 - gamma) lb) with t = ceil(lb_upr / D) within lb_lwr .. lb_upr.
int adapt_lookback(double D, int lb, const LookbackOptions& options);

/// One bin more where the lookback is at its upper end, one less at its lower, within r_lwr .. r_upr.
int adapt_resolution(int lb, int r, const LookbackOptions& options, int r_lwr, int r_upr);

/// The loss history and the strategy that it leads to.
struct StrategyState {
  AdaptStrategy strategy = AdaptStrategy::kMin;
  std::vector<double> history;
  bool operator==(const StrategyState&) const = default;
};

/// One level up per step at most, straight down to min at any improvement: `loss` below `average` in size.
AdaptStrategy next_strategy(AdaptStrategy strategy, double average, double loss);

/// What a step's strategy was chosen from; no average while the history is short: the strategy stays.
struct StrategyChoice {
  AdaptStrategy before = AdaptStrategy::kMin;
  double loss = 0.0;
  std::optional<double> average;
};

/// One optimiser step: `loss` is the regularised loss of the last micro-batch, m the mean lookback of all
/// tensors. `released`: the mean is sum(H) / m although H has m + 1 entries at first.
StrategyChoice adapt_strategy(StrategyState& state, double loss, int m, bool released);

}  // namespace bitdial::policies
