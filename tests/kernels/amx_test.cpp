// The AMX kernels against the scalar reference, bit by bit: on tiles of plain C++ everywhere, and as machine
// code on the CPU's tiles, or on emulated ones where it has none.
#include "bitdial/kernels/amx/amx.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <ostream>
#include <stdexcept>
#include <string>
#include <utility>

#include "bitdial/kernels/amx/amx.h"
#include "bitdial/kernels/amx/digits.h"
#include "bitdial/kernels/amx/tile_twin.h"
#include "bitdial/kernels/isa.h"
#include "tests/kernels/amx_emulator.h"
#include "tests/kernels/random_problem.h"

namespace bitdial::kernels {
namespace {

using namespace testing_support;

struct Implementation {
  const char* name;
  const Conv2dKernels* table;
  Isa needs;
  bool has_tile_instructions;
};
void PrintTo(const Implementation& implementation, std::ostream* stream) { *stream << implementation.name; }

const Implementation kImplementations[] = {
    {"twin", &amx::twin::kConv2d, Isa::kScalar, false},
    {"twin_avx512", &amx::twin_avx512::kConv2d, Isa::kAvx512Vnni, false},
    {"machine_code", &amx::kConv2d, Isa::kAvx512Vnni, true}};

/// A shape with room for every special case, small enough for the reference.
ConvShape random_shape(Random& random, int64_t max_macs) {
  const int64_t batches[] = {1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 47, 50, 63, 64, 65, 100, 127, 128, 130};
  const int64_t channels[] = {1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 128, 130};
  while (true) {
    ConvShape s;
    s.batch = random.one_in(3) ? random.between(1, 130) : batches[random.between(0, 18)];
    s.groups = random.one_in(5) ? random.between(2, 4) : 1;
    s.in_channels = channels[random.between(0, 18)] * s.groups;
    s.out_channels = channels[random.between(0, 18)] * s.groups;
    s.kernel_height = random.between(1, random.one_in(4) ? 5 : 3);
    s.kernel_width = random.one_in(2) ? s.kernel_height : random.between(1, random.one_in(4) ? 7 : 3);
    s.in_height = random.between(1, 9);
    s.in_width = random.one_in(3) ? random.between(1, 24) : random.between(1, 8);
    s.stride_height = random.between(1, 3);
    s.stride_width = random.one_in(2) ? s.stride_height : random.between(1, 3);
    s.padding_height = random.between(0, random.one_in(4) ? 4 : 2);
    s.padding_width = random.between(0, random.one_in(4) ? 4 : 2);
    s.dilation_height = random.one_in(4) ? random.between(2, 3) : 1;
    s.dilation_width = random.one_in(4) ? random.between(2, 3) : 1;
    const bool fits = s.dilation_height * (s.kernel_height - 1) < s.in_height + 2 * s.padding_height &&
                      s.dilation_width * (s.kernel_width - 1) < s.in_width + 2 * s.padding_width;
    if (fits && s.macs() <= max_macs) return s;
  }
}

class Amx : public testing::TestWithParam<Implementation> {
 protected:
  void SetUp() override {
    if (!is_available(GetParam().needs)) GTEST_SKIP() << "this CPU lacks " << to_string(GetParam().needs);
    if (GetParam().has_tile_instructions && !is_available(Isa::kAmx)) emulator_.emplace();
  }
  void TearDown() override {
    if (emulator_) {
      EXPECT_GT(AmxEmulator::executed(), 0);
    }
  }
  const Conv2dKernels& table() const { return *GetParam().table; }

 private:
  std::optional<AmxEmulator> emulator_;
};

INSTANTIATE_TEST_SUITE_P(Tiles, Amx, testing::ValuesIn(kImplementations),
                         [](const auto& info) { return std::string(info.param.name); });

/// BITDIAL_FUZZ_PROBLEMS runs more of them, BITDIAL_FUZZ_SEED others.
int environment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}
int problems(const Implementation& implementation) {
  return environment("BITDIAL_FUZZ_PROBLEMS", implementation.has_tile_instructions ? 80 : 250);
}
uint32_t seed(uint32_t otherwise) {
  return otherwise + static_cast<uint32_t>(environment("BITDIAL_FUZZ_SEED", 0));
}
constexpr int64_t kMaxMacs = 1 << 19;

TEST_P(Amx, ForwardEqualsTheReference) {
  Random random(seed(1));
  for (int i = 0; i < problems(GetParam()) && !HasFatalFailure(); ++i) {
    check_forward(table(), random_shape(random, kMaxMacs), random);
  }
}

TEST_P(Amx, BackwardDataEqualsTheReference) {
  Random random(seed(2));
  for (int i = 0; i < problems(GetParam()) && !HasFatalFailure(); ++i) {
    check_backward_data(table(), random_shape(random, kMaxMacs), random);
  }
}

TEST_P(Amx, BackwardWeightEqualsTheReference) {
  Random random(seed(3));
  for (int i = 0; i < problems(GetParam()) && !HasFatalFailure(); ++i) {
    check_backward_weight(table(), random_shape(random, kMaxMacs), random);
  }
}

/// Reductions longer than the int32 sums hold, all products of the largest magnitude.
TEST_P(Amx, LongReductionsOfExtremeCodesDoNotOverflow) {
  using enum CodeType;
  Random random(4);
  for (const auto& [a, b] : {std::pair{kS16, kS16}, {kU16, kU8}, {kS8, kS8}, {kU16, kU16}, {kS8, kS16}}) {
    if (GetParam().has_tile_instructions && a != kS16) break;  // emulated: slow
    const int64_t length = amx::plan_digits(a, b).max_steps * 64 + 100;
    const ConvShape deep{.batch = 2, .in_channels = length, .out_channels = 1};
    const ConvShape wide{.batch = 2, .in_channels = 1, .out_channels = length};
    const ConvShape images{.batch = 66, .in_channels = 1, .in_width = length / 65 + 1, .out_channels = 1};
    const ConvShape rows{.batch = 1, .in_channels = 1, .in_width = length, .out_channels = 2};
    for (const ConvShape& shape : {deep, wide, images, rows}) {
      check_extremes(table(), shape, a, b, random.one_in(2) ? Fill::kLowest : Fill::kHighest, random);
      if (HasFatalFailure()) return;
    }
  }
}

/// Tensors that tiles read in place, and operands that need several visits of the weight gradient.
TEST_P(Amx, SpecialPathsEqualTheReference) {
  Random random(5);
  const ConvShape in_place{.batch = 32,
                           .in_channels = 64,
                           .in_height = 3,
                           .in_width = 3,
                           .out_channels = 20,
                           .kernel_height = 3,
                           .kernel_width = 3,
                           .padding_height = 1,
                           .padding_width = 1};
  const ConvShape visits{.batch = 64, .in_channels = 512, .in_height = 5, .in_width = 30, .out_channels = 3};
  for (int i = 0; i < 8; ++i) check_forward(table(), in_place, random);
  check_backward_weight(table(), visits, random);
}

TEST(AmxDigits, LimitsOfTheInt32Sums) {
  EXPECT_EQ(amx::plan_digits(CodeType::kS8, CodeType::kS8).max_steps, 131071 / 64);
  EXPECT_EQ(amx::plan_digits(CodeType::kU8, CodeType::kU8).max_steps, 33025 / 64);
  EXPECT_EQ(amx::plan_digits(CodeType::kS16, CodeType::kS16).max_steps, 32896 / 64);
  EXPECT_EQ(amx::plan_digits(CodeType::kS16, CodeType::kS8).max_steps, 65793 / 64);
}

TEST(AmxTwin, RefusesTilesWithoutConfiguration) {
  amx::TwinTile::release();
  EXPECT_THROW(amx::TwinTile::zero<0>(), std::logic_error);
  amx::TwinTile::configure();
  EXPECT_NO_THROW(amx::TwinTile::zero<0>());
  amx::TwinTile::release();
}

}  // namespace
}  // namespace bitdial::kernels
