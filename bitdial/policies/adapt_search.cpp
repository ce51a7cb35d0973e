#include "bitdial/policies/adapt_search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <vector>

#include "bitdial/core/parallel.h"
#include "bitdial/core/quantizer.h"

namespace bitdial::policies {
namespace {

constexpr double kSmallestShare = 1e-12;  // of q, so that an empty bin costs a finite loss
constexpr int64_t kBlock = 1024;          // elements whose bins are found before they are counted
constexpr int64_t kGrain = 16 * kBlock;

// 0 below the range, 1 .. r inside (the last includes the upper edge), r + 1 above.
int32_t bin_of(const HistogramBins& bins, float x) {
  const auto inside =
      static_cast<int32_t>(std::clamp((x - bins.min) * bins.per_value, 0.0F, static_cast<float>(bins.r)));
  return x < bins.min ? 0 : x > bins.max ? bins.r + 1 : std::min(inside, bins.r - 1) + 1;
}

using Counts = std::vector<int64_t>;  // r + 2

// transform(x, index) turns an element into the value to count. Counting is exact, so its order is free.
template <class Transform>
Counts count(std::span<const float> values, const HistogramBins& bins, const Transform& transform) {
  Counts total(static_cast<size_t>(bins.r) + 2, 0);
  std::mutex mutex;
  parallel_for(static_cast<int64_t>(values.size()), kGrain, [&](int64_t begin, int64_t end) {
    // Equal values follow each other: two tables keep one increment from waiting for the one before.
    Counts even(total.size(), 0), odd(total.size(), 0);
    std::array<int32_t, kBlock> found{};
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t size = std::min(kBlock, end - first);
      for (int64_t i = 0; i < size; ++i) {
        const float x = values[static_cast<size_t>(first + i)];
        found[static_cast<size_t>(i)] = bin_of(bins, transform(x, first + i));
      }
      int64_t i = 0;
      for (; i + 1 < size; i += 2) {
        ++even[static_cast<size_t>(found[static_cast<size_t>(i)])];
        ++odd[static_cast<size_t>(found[static_cast<size_t>(i) + 1])];
      }
      if (i < size) ++even[static_cast<size_t>(found[static_cast<size_t>(i)])];
    }
    const std::scoped_lock lock(mutex);
    for (size_t b = 0; b < total.size(); ++b) total[b] += even[b] + odd[b];
  });
  return total;
}

Quantizer quantizer_of(FixedPoint fixed, bool stochastic) {
  const Format format{.rule = ScaleRule::kFixed,
                      .word_length = fixed.WL,
                      .fraction_length = fixed.FL,
                      .rounding = stochastic ? Rounding::kStochastic : Rounding::kNearestEven};
  return make_quantizer(format, choose_params(format, Range{}));
}

Counts count_quantized(std::span<const float> values, const HistogramBins& bins, FixedPoint format,
                       bool stochastic, RandomKey key) {
  const Quantizer quantizer = quantizer_of(format, stochastic);
  if (stochastic) {
    return count(values, bins, [&](float x, int64_t i) {
      const float y = clamp_steps(quantizer, x * quantizer.reciprocal);
      return quantizer.scale * round_stochastic(y, random_bits(key, static_cast<uint64_t>(i)));
    });
  }
  return count(values, bins, [&](float x, int64_t) {
    return quantizer.scale * round_half_even(clamp_steps(quantizer, x * quantizer.reciprocal));
  });
}

}  // namespace

HistogramLoss::HistogramLoss(std::span<const float> values, int bins) : values_(values) {
  if (values.empty()) return;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  bins_ = {*low, *high, static_cast<float>(bins) / (*high - *low), bins};
  if (!(*low < *high) || !std::isfinite(bins_.per_value)) return;
  const Counts counts = count(values, bins_, [](float x, int64_t) { return x; });
  for (int b = 1; b <= bins; ++b) {
    p_.push_back(static_cast<double>(counts[static_cast<size_t>(b)]) / static_cast<double>(values.size()));
  }
}

double HistogramLoss::kl(FixedPoint format, bool stochastic, RandomKey key) const {
  if (p_.empty()) return 0.0;
  Counts counts = count_quantized(values_, bins_, format, stochastic, key);
  counts[1] += counts.front();
  counts[counts.size() - 2] += counts.back();
  double loss = 0.0;
  for (size_t b = 0; b < p_.size(); ++b) {
    const double p = p_[b];
    const double q =
        std::max(static_cast<double>(counts[b + 1]) / static_cast<double>(values_.size()), kSmallestShare);
    if (p > 0.0) loss += p * std::log(p / q);
  }
  return loss;
}

double HistogramLoss::surrogate(FixedPoint format, bool stochastic, RandomKey key) const {
  if (p_.empty()) return 0.0;
  const Counts counts = count_quantized(values_, bins_, format, stochastic, key);
  const auto inside =
      static_cast<double>(static_cast<int64_t>(values_.size()) - counts.front() - counts.back());
  double loss = 0.0;
  for (size_t b = 0; b < p_.size(); ++b) {
    const double q = inside > 0.0 ? static_cast<double>(counts[b + 1]) / inside : 0.0;
    loss += std::exp(q) * (q - p_[b]);
  }
  return loss / static_cast<double>(p_.size());
}

namespace {

// One search: the loss of a format, numbered so that every evaluation draws its own random bits.
class Search {
 public:
  Search(std::span<const float> values, int r, const PushDownOptions& options, RandomCounters counters)
      : histogram_(values, r), options_(options), counters_(counters) {}

  double loss(FixedPoint format) {
    counters_.call = static_cast<uint32_t>(evaluations++);
    const RandomKey key = random_key(counters_);
    return options_.released ? histogram_.surrogate(format, options_.stochastic, key)
                             : histogram_.kl(format, options_.stochastic, key);
  }
  bool is_lost(double loss) const { return loss > (options_.released ? 0.0 : options_.kl_tol); }

  int evaluations = 0;

 private:
  HistogramLoss histogram_;
  PushDownOptions options_;
  RandomCounters counters_;
};

// The smallest value of [low, high] that keeps the information, `high` if none does.
template <class Make>
int first_passing(Search& search, int low, int high, const Make& make, double& loss) {
  for (int value = low; value <= high; ++value) {
    loss = search.loss(make(value));
    if (!search.is_lost(loss)) return value;
  }
  return high;
}

int half_up(int low, int high) { return (low + high + 1) / 2; }

// As released: FL's bisection evaluates its lower end, both return the lower bracket.
PushDownResult push_down_released(Search& search, FixedPoint current, int fl_min) {
  PushDownResult result;
  int low = fl_min, high = current.FL;
  for (int left = high - low; left > 0; --left) {
    const int middle = half_up(low, high);
    result.kl_FL = search.loss({current.WL, low});
    (search.is_lost(result.kl_FL) ? low : high) = middle;
    if (high - low <= 1) break;
  }
  const int FL = low;
  high = current.WL;
  for (int left = high - low; left > 0; --left) {
    const int middle = half_up(low, high);
    result.kl_WL = search.loss({middle, FL});
    (search.is_lost(result.kl_WL) ? low : high) = middle;
    if (high - low <= 1) break;
  }
  result.format = {low, FL};
  return result;
}

}  // namespace

PushDownResult push_down(std::span<const float> weights, FixedPoint current, int r,
                         const PushDownOptions& options, RandomCounters counters) {
  Search search(weights, r, options, counters);
  PushDownResult result;
  if (options.released) {
    result = push_down_released(search, current, options.fl_min);
  } else {
    constexpr int kWidest = 32;  // FL is judged where no value is clipped
    const int highest = std::max(current.FL, options.fl_min);
    const int FL = first_passing(
        search, options.fl_min, highest,
        [](int FL) {
          return FixedPoint{kWidest, FL};
        },
        result.kl_FL);
    const int WL = first_passing(
        search, FL, std::max(current.WL, FL),
        [&](int WL) {
          return FixedPoint{WL, FL};
        },
        result.kl_WL);
    result.format = {WL, FL};
  }
  result.evaluations = search.evaluations;
  return result;
}

FixedPoint raise_for_gradient(std::span<const float> gradient, FixedPoint start, int r,
                              const PushDownOptions& options, RandomCounters counters) {
  constexpr int kHighestFL = 31, kHighestWL = 32;
  Search search(gradient, r, options, counters);
  FixedPoint format = start;
  while (format.FL <= kHighestFL && format.WL <= kHighestWL && search.is_lost(search.loss(format))) {
    ++(format.FL < format.WL ? format.FL : format.WL);
  }
  return format;
}

}  // namespace bitdial::policies
