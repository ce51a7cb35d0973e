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

bool is_lost(double loss, const PushDownOptions& options) {
  return loss > (options.released ? 0.0 : options.kl_tol);
}

namespace {

// The loss of a format by a histogram; every evaluation draws its own random bits.
class HistogramSearch {
 public:
  HistogramSearch(std::span<const float> values, int r, const PushDownOptions& options,
                  RandomCounters counters)
      : histogram_(values, r), options_(options), counters_(counters) {}

  double operator()(FixedPoint format) {
    const RandomKey key = random_key(counters_);
    ++counters_.call;
    return options_.released ? histogram_.surrogate(format, options_.stochastic, key)
                             : histogram_.kl(format, options_.stochastic, key);
  }

 private:
  HistogramLoss histogram_;
  PushDownOptions options_;
  RandomCounters counters_;
};

using LossOfLength = std::function<double(int)>;

// The smallest length of [low, high] that keeps the information, `high` if none does.
int first_passing(int low, int high, const PushDownOptions& options, const LossOfLength& loss,
                  std::vector<Candidate>& looked_at) {
  for (int length = low; length <= high; ++length) {
    looked_at.push_back({length, loss(length)});
    if (!is_lost(looked_at.back().loss, options)) return length;
  }
  return high;
}

// As released: bisection that returns its lower bracket, the last length that failed.
int lower_bracket(int low, int high, bool looks_at_low, const PushDownOptions& options,
                  const LossOfLength& loss, std::vector<Candidate>& looked_at) {
  for (int left = high - low; left > 0; --left) {
    const int middle = (low + high + 1) / 2;
    const int length = looks_at_low ? low : middle;
    looked_at.push_back({length, loss(length)});
    (is_lost(looked_at.back().loss, options) ? low : high) = middle;
    if (high - low <= 1) break;
  }
  return low;
}

}  // namespace

PushDownResult push_down(FixedPoint current, const PushDownOptions& options,
                         const std::function<double(FixedPoint)>& loss) {
  constexpr int kWidest = 32;  // the clean search judges FL where no value is clipped
  PushDownResult result;
  const int WL_of_FL = options.released ? current.WL : kWidest;
  const LossOfLength of_FL = [&](int FL) { return loss({WL_of_FL, FL}); };
  const int FL = options.released ? lower_bracket(options.fl_min, current.FL, true, options, of_FL, result.FL)
                                  : first_passing(options.fl_min, std::max(current.FL, options.fl_min),
                                                  options, of_FL, result.FL);
  const LossOfLength of_WL = [&](int WL) { return loss({WL, FL}); };
  const int WL = options.released ? lower_bracket(FL, current.WL, false, options, of_WL, result.WL)
                                  : first_passing(FL, std::max(current.WL, FL), options, of_WL, result.WL);
  result.format = {WL, FL};
  return result;
}

PushDownResult push_down(std::span<const float> weights, FixedPoint current, int r,
                         const PushDownOptions& options, RandomCounters counters) {
  return push_down(current, options, HistogramSearch(weights, r, options, counters));
}

bool can_be_raised(FixedPoint format) { return format.FL <= 31 && format.WL <= 32; }

FixedPoint raised(FixedPoint format) {
  ++(format.FL < format.WL ? format.FL : format.WL);
  return format;
}

RaisedFormat raise_for_gradient(std::span<const float> gradient, FixedPoint start, int r,
                                const PushDownOptions& options, RandomCounters counters) {
  HistogramSearch search(gradient, r, options, counters);
  RaisedFormat result{.format = start};
  for (; can_be_raised(result.format); result.format = raised(result.format)) {
    result.loss = search(result.format);
    if (!is_lost(result.loss, options)) break;
  }
  return result;
}

}  // namespace bitdial::policies
