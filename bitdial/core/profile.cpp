#include "bitdial/core/profile.h"

#include <chrono>

#include "bitdial/core/error.h"

namespace bitdial {
namespace {

int64_t nanoseconds_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::string_view to_string(Phase phase) {
  switch (phase) {
    case Phase::kQuantize:
      return "quantise";
    case Phase::kPack:
      return "pack";
    case Phase::kGemm:
      return "GEMM";
    case Phase::kEpilogue:
      return "epilogue";
    case Phase::kNormalize:
      return "BN";
    case Phase::kOptimizer:
      return "optimiser";
    case Phase::kPolicy:
      return "policy";
    case Phase::kOther:
      return "other";
  }
  return "unknown";
}

thread_local Profile* Profile::active_ = nullptr;

void Profile::start() {
  require(active_ == nullptr, "profile", "another profile of this thread is running");
  active_ = this;
  place_ = {};
  since_ = nanoseconds_now();
}

void Profile::stop() {
  if (active_ != this) return;
  go_to({});
  active_ = nullptr;
}

double Profile::total() const {
  double total = 0.0;
  for (const auto& [layer, phases] : seconds_) {
    for (const double seconds : phases) total += seconds;
  }
  return total;
}

Profile::Place Profile::go_to(Place next) {
  if (active_ != this) return next;  // a scope that outlived stop()
  const int64_t now = nanoseconds_now();
  seconds_[place_.layer][static_cast<size_t>(place_.phase)] += 1e-9 * static_cast<double>(now - since_);
  since_ = now;
  const Place before = place_;
  place_ = next;
  return before;
}

ProfileScope::ProfileScope(Phase phase) : profile_(Profile::active_) {
  if (profile_ != nullptr) before_ = profile_->go_to({profile_->place_.layer, phase});
}

ProfileScope::ProfileScope(int layer) : profile_(Profile::active_) {
  if (profile_ != nullptr) before_ = profile_->go_to({layer, profile_->place_.phase});
}

ProfileScope::~ProfileScope() {
  if (profile_ != nullptr) profile_->go_to(before_);
}

PhaseScope::PhaseScope(Phase phase) : ProfileScope(phase) {}
LayerScope::LayerScope(int layer) : ProfileScope(layer) {}

}  // namespace bitdial
