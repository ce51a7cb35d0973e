#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// MuPPET's rules as functions of numbers (specs: muppet.md, sources M-code).
namespace bitdial::policies {

/// Word lengths of the levels (M-cfg); the last is float32.
inline constexpr std::array<int, 5> kMuppetLadder{8, 12, 14, 16, 32};

/// T(e) = alpha + beta exp(-lambda e), e counted from 0.
struct MuppetThreshold {
  double alpha = 1.0, beta = 1.5, lambda = 0.1;
  double operator()(int64_t e) const;
};

/// Which epochs' gradients one evaluation sees: r of its own, or r + 1, the last of which it shares with the
/// next.
enum class DiversityWindow : uint8_t { kDisjoint, kSliding };

/// GD_p = sum ||g||^2 / ||sum g||^2 of one parameter over the epoch-end gradients g of a window. Sums are
/// float64 over a fixed order, the gradients' sum is float32.
class GradientDiversity {
 public:
  GradientDiversity(DiversityWindow window, int r, int64_t elements);

  void add(std::span<const float> gradient);
  /// True when the window is full.
  bool is_full() const;
  /// 0 / 0 (no gradient at all) counts as 1 / r, what equal gradients give.
  double value() const;
  /// After an evaluation: forgets what the next window does not share.
  void restart();
  /// At a new level: forgets all.
  void clear();

  /// Gradients held and the sum of their squared norms; `values` has the gradients' sum, or the gradients of
  /// a sliding window one after the other.
  int64_t count() const { return static_cast<int64_t>(norms_.size()); }
  const std::vector<double>& squared_norms() const { return norms_; }
  std::span<float> values() { return values_; }
  void restore(std::vector<double> norms) { norms_ = std::move(norms); }

 private:
  size_t limit() const;

  DiversityWindow window_;
  int r_;
  size_t elements_;
  std::vector<double> norms_;  // squared, oldest first
  std::vector<float> values_;
};

/// The evaluations of one level.
struct ViolationCount {
  double max_gd = 0.0;
  int violations = 0;

  /// Takes in one GD at epoch e; true when the level is over, after which it starts anew.
  bool add(double gd, double threshold, int gamma);
  bool operator==(const ViolationCount&) const = default;
};

/// The learning rate of the float32 epochs: x0.1 after each block, until it is no larger than min_lr.
struct FloatPhase {
  int64_t epochs = 0;
  enum class Next : uint8_t { kGoOn, kLowerRate, kStop };
  /// At the end of one more epoch. `released` compares the binary numbers, otherwise within 1e-9.
  Next end_epoch(double learning_rate, double min_lr, int epochs_per_lr, bool released);
};

}  // namespace bitdial::policies
