#include <ATen/Context.h>
#include <gtest/gtest.h>

// LibTorch seeds its default generator from the machine; a test that draws from it must draw the same every
// time.
namespace {

class Seed : public testing::Environment {
 public:
  void SetUp() override { at::manual_seed(1); }
};

[[maybe_unused]] const testing::Environment* const kSeed = testing::AddGlobalTestEnvironment(new Seed);

}  // namespace
