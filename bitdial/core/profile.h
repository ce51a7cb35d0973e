#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>

/// Where the time of a training step goes, by layer and phase. Scopes in the code name the phase; they cost
/// one look at a thread's variable unless a Profile runs.
namespace bitdial {

enum class Phase : uint8_t {
  kQuantize,   ///< passes that only quantise or measure a tensor
  kPack,       ///< operands into the layout of a kernel
  kGemm,       ///< products, scaling and storing their sums, channel sums
  kEpilogue,   ///< the pass of a block that computes and quantises what follows a GEMM
  kNormalize,  ///< statistics and sums of normalisations, unfused normalisations
  kOptimizer,
  kPolicy,  ///< decisions, and what is measured for them alone
  kOther,
};
inline constexpr size_t kPhases = 8;
std::string_view to_string(Phase phase);

/// The time of the thread that started it. A moment counts for the innermost scopes alone, so that all
/// seconds together are the time between start and stop. Work of other threads shows in the time that this
/// one waits.
class Profile {
 public:
  static constexpr int kNoLayer = -1;
  using Seconds = std::array<double, kPhases>;

  Profile() = default;
  ~Profile() { stop(); }
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  /// One Profile a thread runs at a time; starting again adds to what was counted.
  void start();
  void stop();

  /// By layer as its LayerScope named it; kNoLayer: outside of all.
  const std::map<int, Seconds>& seconds() const { return seconds_; }
  double total() const;

 private:
  friend class ProfileScope;
  struct Place {
    int layer = kNoLayer;
    Phase phase = Phase::kOther;
  };

  /// What was under way counts up to now; returns it.
  Place go_to(Place next);

  static thread_local Profile* active_;
  std::map<int, Seconds> seconds_;
  Place place_;
  int64_t since_ = 0;  ///< nanoseconds of a steady clock
};

/// From its construction to its end a moment counts for the phase or the layer that it names. Its members
/// are not inline: code for an instruction set of its own uses them, too.
class ProfileScope {
 public:
  ~ProfileScope();
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 protected:
  explicit ProfileScope(Phase phase);
  explicit ProfileScope(int layer);

 private:
  Profile* profile_;
  Profile::Place before_;
};

class PhaseScope : ProfileScope {
 public:
  explicit PhaseScope(Phase phase);
};

class LayerScope : ProfileScope {
 public:
  explicit LayerScope(int layer);
};

}  // namespace bitdial
