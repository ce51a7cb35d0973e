#include "bitdial/policies/adapt_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace bitdial::policies {
namespace {

// ceil, kept within what a bit count can be compared with.
int64_t bounded_ceil(double x) {
  constexpr double kLimit = 1e9;
  return static_cast<int64_t>(std::clamp(std::ceil(x), -kLimit, kLimit));
}

int64_t choose(int64_t s1, int64_t s2, AdaptStrategy strategy) {
  switch (strategy) {
    case AdaptStrategy::kMin:
      return std::min(s1, s2);
    case AdaptStrategy::kMean:
      return (s1 + s2 + 1) / 2;  // both are >= 0
    case AdaptStrategy::kMax:
      return std::max(s1, s2);
  }
  return 1;
}

// WL >= FL + buff and both within wl_max.
FixedPoint with_buffer(FixedPoint format, const PushUpOptions& options) {
  format.FL = std::min(format.FL, options.wl_max - options.buff);
  format.WL = std::max(std::min(format.FL + options.buff, options.wl_max), format.WL);
  return format;
}

}  // namespace

double adapt_diversity(int64_t n, double norm_of_sum) {
  return norm_of_sum > 0.0 ? static_cast<double>(n) / norm_of_sum : std::numeric_limits<double>::infinity();
}

PushUpResult push_up(double D, FixedPoint reduced, AdaptStrategy strategy, const PushUpOptions& options) {
  PushUpResult result;
  const bool is_arxiv = options.form == PushUpForm::kArxiv;
  const double log_D = std::log(D);
  const double x = log_D - 1.0;
  if (D > 0.0 && std::isfinite(D) && (is_arxiv ? log_D > 0.0 : x > 0.0)) {
    const int64_t FL = reduced.FL;
    if (is_arxiv) {
      result.s1 = std::max<int64_t>(bounded_ceil(1.0 / x), 1);
      result.s2 = std::max<int64_t>(
          std::min<int64_t>(bounded_ceil(32.0 * log_D * log_D - 1.0), options.wl_max) - FL, 1);
    } else {
      result.s1 = std::max<int64_t>(bounded_ceil(1.0 / (x * x)), 1);
      result.s2 = std::max<int64_t>(std::min<int64_t>(bounded_ceil(32.0 * x * x), options.wl_max) - FL, 0);
    }
    result.s = choose(result.s1, result.s2, strategy);
  }
  const auto FL = static_cast<int>(std::min<int64_t>(reduced.FL + result.s, options.wl_max));
  const int WL = std::min(std::max(reduced.WL, FL) + 1, options.wl_max);
  result.format = with_buffer({WL, FL}, options);
  return result;
}

FixedPoint agree(std::span<const FixedPoint> formats, AdaptStrategy strategy, const PushUpOptions& options) {
  const auto of = [&](auto member) {
    int low = std::numeric_limits<int>::max(), high = 0;
    double sum = 0.0;
    for (const FixedPoint& format : formats) {
      low = std::min(low, format.*member);
      high = std::max(high, format.*member);
      sum += format.*member;
    }
    if (strategy == AdaptStrategy::kMin) return low;
    if (strategy == AdaptStrategy::kMax) return (low + high + 1) / 2;
    return static_cast<int>(std::ceil(sum / static_cast<double>(formats.size())));
  };
  const FixedPoint format{std::min(of(&FixedPoint::WL), options.wl_max), of(&FixedPoint::FL)};
  return with_buffer(format, options);
}

int adapt_lookback(double D, int lb, const LookbackOptions& options) {
  const double upper = options.lb_upr, lower = options.lb_lwr;
  const double t = D > 0.0 ? std::ceil(std::min(std::max(upper / D, lower), upper)) : upper;
  // In this order and not fused (the build says so): the ceil sees the last bit.
  const double smoothed = std::ceil(t * options.gamma + static_cast<double>(lb) * (1.0 - options.gamma));
  return static_cast<int>(std::min(smoothed, std::max(t, static_cast<double>(lb))));  // gamma 0.08: 5, not 6
}

int adapt_resolution(int lb, int r, const LookbackOptions& options, int r_lwr, int r_upr) {
  if (lb == options.lb_upr) r = std::min(std::max(r + 1, r_lwr), r_upr);
  if (lb == options.lb_lwr) r = std::min(std::max(r - 1, r_lwr), r_upr);
  return r;
}

AdaptStrategy next_strategy(AdaptStrategy strategy, double average, double loss) {
  const bool is_worse = average <= std::fabs(loss);
  if (!is_worse) return AdaptStrategy::kMin;
  return strategy == AdaptStrategy::kMin ? AdaptStrategy::kMean : AdaptStrategy::kMax;
}

StrategyChoice adapt_strategy(StrategyState& state, double loss, int m, bool released) {
  std::vector<double>& H = state.history;
  const auto length = static_cast<int64_t>(H.size());
  StrategyChoice choice{.before = state.strategy, .loss = loss, .average = {}};
  if (length > m) {
    const double sum = std::accumulate(H.begin(), H.end(), 0.0);
    choice.average = std::fabs(sum / static_cast<double>(released ? m : length));
    state.strategy = next_strategy(state.strategy, *choice.average, loss);
    H.erase(H.begin(), H.end() - m);
  }
  H.push_back(loss);
  return choice;
}

}  // namespace bitdial::policies
