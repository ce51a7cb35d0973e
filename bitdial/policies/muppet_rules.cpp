#include "bitdial/policies/muppet_rules.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "bitdial/core/error.h"
#include "bitdial/policies/vector_sums.h"

namespace bitdial::policies {

double MuppetThreshold::operator()(int64_t e) const {
  return alpha + beta * std::exp(-lambda * static_cast<double>(e));
}

GradientDiversity::GradientDiversity(DiversityWindow window, int r, int64_t elements)
    : window_(window), r_(r), elements_(static_cast<size_t>(elements)) {
  const size_t copies = window == DiversityWindow::kSliding ? limit() : 1;
  values_.assign(copies * elements_, 0.0F);
}

size_t GradientDiversity::limit() const {
  return static_cast<size_t>(r_) + (window_ == DiversityWindow::kSliding ? 1 : 0);
}

bool GradientDiversity::is_full() const { return norms_.size() == limit(); }

void GradientDiversity::add(std::span<const float> gradient) {
  require(gradient.size() == elements_ && !is_full(), "muppet", "a gradient of {} elements, expected {}",
          gradient.size(), elements_);
  if (window_ == DiversityWindow::kSliding) {
    std::ranges::copy(gradient, values_.begin() + static_cast<std::ptrdiff_t>(norms_.size() * elements_));
  } else {
    add_to(values_, gradient);
  }
  norms_.push_back(squared_norm(gradient));
}

double GradientDiversity::value() const {
  const double sum = std::accumulate(norms_.begin(), norms_.end(), 0.0);
  double norm_of_sum = 0.0;
  if (window_ == DiversityWindow::kSliding) {
    std::vector<float> total(elements_, 0.0F);
    for (size_t k = 0; k < norms_.size(); ++k) {
      for (size_t i = 0; i < elements_; ++i) total[i] += values_[k * elements_ + i];
    }
    norm_of_sum = squared_norm(total);
  } else {
    norm_of_sum = squared_norm(values_);
  }
  constexpr double kLargest = 1e300;  // gradients that cancel: finite, so that a saved state can hold it
  return sum == 0.0 ? 1.0 / static_cast<double>(r_) : std::min(sum / norm_of_sum, kLargest);
}

void GradientDiversity::restart() {
  if (window_ == DiversityWindow::kDisjoint || norms_.empty()) {
    clear();
    return;
  }
  const auto last = values_.begin() + static_cast<std::ptrdiff_t>((norms_.size() - 1) * elements_);
  std::copy(last, last + static_cast<std::ptrdiff_t>(elements_), values_.begin());
  norms_ = {norms_.back()};
}

void GradientDiversity::clear() {
  norms_.clear();
  std::ranges::fill(values_, 0.0F);
}

bool ViolationCount::add(double gd, double threshold, int gamma) {
  if (gd >= max_gd) {
    max_gd = gd;
  } else if (max_gd / gd > threshold) {
    ++violations;
  }
  if (violations < gamma) return false;
  *this = {};
  return true;
}

FloatPhase::Next FloatPhase::end_epoch(double learning_rate, double min_lr, int epochs_per_lr,
                                       bool released) {
  constexpr double kTolerance = 1e-9;
  ++epochs;
  if (epochs % epochs_per_lr != 0) return Next::kGoOn;
  const double limit = released ? min_lr : min_lr * (1.0 + kTolerance);
  return learning_rate > limit ? Next::kLowerRate : Next::kStop;
}

}  // namespace bitdial::policies
