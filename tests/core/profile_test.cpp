#include "bitdial/core/profile.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "bitdial/core/error.h"

namespace bitdial {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kNap = 0.002;

void nap() { std::this_thread::sleep_for(std::chrono::duration<double>(kNap)); }

double seconds(const Profile& profile, int layer, Phase phase) {
  const auto found = profile.seconds().find(layer);
  return found == profile.seconds().end() ? 0.0 : found->second[static_cast<size_t>(phase)];
}

TEST(ProfileTest, AMomentCountsForTheInnermostScopes) {
  Profile profile;
  const auto begin = Clock::now();
  profile.start();
  nap();
  {
    const LayerScope layer(3);
    const PhaseScope gemm(Phase::kGemm);
    nap();
    {
      const PhaseScope pack(Phase::kPack);
      nap();
    }
    nap();
  }
  profile.stop();
  const double elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
  EXPECT_GE(seconds(profile, Profile::kNoLayer, Phase::kOther), kNap);
  EXPECT_GE(seconds(profile, 3, Phase::kGemm), 2 * kNap);
  EXPECT_GE(seconds(profile, 3, Phase::kPack), kNap);
  EXPECT_EQ(seconds(profile, 3, Phase::kQuantize), 0.0);
  EXPECT_GE(profile.total(), 4 * kNap);
  EXPECT_LE(profile.total(), elapsed);
}

TEST(ProfileTest, CountsNothingWhileItIsStopped) {
  Profile profile;
  {
    const PhaseScope outside(Phase::kGemm);
    profile.start();
    nap();
    profile.stop();
    nap();
  }
  EXPECT_EQ(seconds(profile, Profile::kNoLayer, Phase::kGemm), 0.0);
  const double once = profile.total();
  profile.start();
  nap();
  profile.stop();
  EXPECT_GE(profile.total(), once + kNap);
}

TEST(ProfileTest, IsOfItsThreadAlone) {
  Profile profile;
  profile.start();
  std::thread([] {
    const LayerScope layer(1);
    const PhaseScope phase(Phase::kGemm);
  }).join();
  profile.stop();
  EXPECT_FALSE(profile.seconds().contains(1));
}

TEST(ProfileTest, RefusesASecondOneAtATime) {
  Profile first, second;
  first.start();
  EXPECT_THROW(second.start(), Error);
  second.stop();  // does not stop the first
  nap();
  first.stop();
  EXPECT_GE(first.total(), kNap);
  second.start();
}

}  // namespace
}  // namespace bitdial
