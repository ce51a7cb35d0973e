// Depth-wise kernels against the scalar reference, bit by bit, on every instruction set of this CPU.
#include "bitdial/kernels/depthwise.h"

#include <gtest/gtest.h>

#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/vector/depthwise_problem.h"
#include "tests/kernels/print_isa.h"
#include "tests/kernels/random_problem.h"

namespace bitdial::kernels {
namespace {

using namespace testing_support;

std::vector<Isa> vector_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : available_isas()) {
    if (isa != Isa::kScalar) isas.push_back(isa);
  }
  return isas;
}

ConvShape random_depthwise(Random& random) {
  const int64_t channels[] = {2, 3, 4, 7, 8, 15, 16, 17, 24, 31, 32, 33, 40, 48, 63, 64, 65, 96, 100};
  ConvShape s;
  do {
    s.batch = random.between(1, random.one_in(4) ? 30 : 4);
    s.groups = s.in_channels = s.out_channels = channels[random.between(0, 18)];
    s.kernel_height = random.between(1, random.one_in(4) ? 7 : 3);
    s.kernel_width = random.one_in(2) ? s.kernel_height : random.between(1, 5);
    s.in_height = random.between(1, 9);
    s.in_width = random.between(1, random.one_in(5) ? 40 : 9);
    s.stride_height = random.between(1, 3);
    s.stride_width = random.one_in(2) ? s.stride_height : random.between(1, 3);
    s.padding_height = random.between(0, 3);
    s.padding_width = random.between(0, 3);
    s.dilation_height = random.one_in(4) ? 2 : 1;
    s.dilation_width = random.one_in(4) ? 2 : 1;
  } while (s.dilation_height * (s.kernel_height - 1) >= s.in_height + 2 * s.padding_height ||
           s.dilation_width * (s.kernel_width - 1) >= s.in_width + 2 * s.padding_width);
  return s;
}

class Depthwise : public testing::TestWithParam<Isa> {
 protected:
  Depthwise() : isa_(GetParam()) {}
  ScopedIsa isa_;
};

INSTANTIATE_TEST_SUITE_P(Isas, Depthwise, testing::ValuesIn(vector_isas()),
                         [](const auto& info) { return std::string(to_string(info.param)); });

constexpr int kProblems = 200;

TEST_P(Depthwise, EqualsTheReferenceInThreeDirections) {
  Random random(7);
  for (int i = 0; i < kProblems && !HasFatalFailure(); ++i) {
    const ConvShape shape = random_depthwise(random);
    ASSERT_TRUE(depthwise::supports(shape, GetParam())) << describe(shape);
    check_forward(depthwise::kConv2d, shape, random);
    check_backward_data(depthwise::kConv2d, shape, random);
    check_backward_weight(depthwise::kConv2d, shape, random);
  }
}

/// A problem of the byte kernels of 3x3 taps (vector/depthwise_problem.h).
struct ByteProblem {
  ConvShape shape;
  Codes a, b;
};

ByteProblem random_bytes(Random& random, bool backward_data, bool gradient) {
  const int64_t channels[] = {16, 32, 48, 64, 80, 96, 144};
  ConvShape s{.kernel_height = 3, .kernel_width = 3};
  do {
    s.batch = random.between(1, random.one_in(8) ? 20 : 6);
    s.groups = s.in_channels = s.out_channels = channels[random.between(0, 6)];
    s.in_height = random.between(1, 9);
    s.in_width = random.one_in(2) ? s.in_height : random.between(1, 20);
    s.stride_height = random.between(1, 2);
    s.stride_width = random.one_in(3) ? random.between(1, 2) : s.stride_height;
    s.padding_height = random.one_in(3) ? random.between(0, 4) : 1;
    s.padding_width = random.one_in(3) ? random.between(0, 4) : 1;
  } while (s.in_height + 2 * s.padding_height < 3 || s.in_width + 2 * s.padding_width < 3);
  ByteProblem problem{s, {}, {}};
  const CodeType type = random.one_in(2) ? CodeType::kS8 : CodeType::kU8;
  const int64_t batch_params = !gradient && random.one_in(3) ? s.batch : 1;
  problem.a = random_codes(random, type, backward_data ? s.output_elements() : s.input_elements(),
                           batch_params, random_fill(random), random.one_in(2));
  for (QuantParams& p : problem.a.params) p.offset = 0.0F;
  const bool per_channel = !gradient && !backward_data && random.one_in(2);
  problem.b = random_codes(random, CodeType::kS8, gradient ? s.output_elements() : s.weight_elements(),
                           per_channel ? s.out_channels : 1, random_fill(random), false);
  return problem;
}

TEST_P(Depthwise, BytesOfThreeByThreeTapsEqualTheReference) {
  Random random(9);
  for (int i = 0; i < 120 && !HasFatalFailure(); ++i) {
    const int direction = i % 3;
    const ByteProblem p = random_bytes(random, direction == 1, direction == 2);
    const ConvShape& s = p.shape;
    ASSERT_TRUE(vector::supports_depthwise(s, p.a.operand(), p.b.operand())) << describe(s);
    const std::vector<float> bias(static_cast<size_t>(s.out_channels), 0.37F);
    const float* b = random.one_in(2) ? bias.data() : nullptr;
    const std::string what = describe(s) + types(p.a, p.b);
    const auto forward = [&](const Conv2dKernels& k, const Output& y) {
      k.forward(s, p.a.operand(), p.b.operand(), b, y);
    };
    const auto backward = [&](const Conv2dKernels& k, const Output& dx) {
      k.backward_data(s, p.a.operand(), p.b.operand(), dx);
    };
    const bool half = random.one_in(2);
    if (direction == 0) compare_output(depthwise::kConv2d, half, s.output_elements(), what, forward);
    if (direction == 1) compare_output(depthwise::kConv2d, half, s.input_elements(), what, backward);
    if (direction == 2) {
      compare<float>(
          depthwise::kConv2d, s.weight_elements(), "gradient " + what,
          [&](const Conv2dKernels& k, float* dw) { k.backward_weight(s, p.a.operand(), p.b.operand(), dw); });
    }
  }
}

/// More products of a lane than int32 holds at once.
TEST_P(Depthwise, LongReductionsOfBytesAreExact) {
  Random random(10);
  const ConvShape s{.batch = 4,
                    .in_channels = 16,
                    .in_height = 3,
                    .in_width = 5700,
                    .out_channels = 16,
                    .kernel_height = 3,
                    .kernel_width = 3,
                    .padding_height = 1,
                    .padding_width = 1,
                    .groups = 16};
  const Codes x = random_codes(random, CodeType::kU8, s.input_elements(), 1, Fill::kHighest, false);
  const Codes dy = random_codes(random, CodeType::kS8, s.output_elements(), 1, Fill::kLowest, false);
  compare<float>(
      depthwise::kConv2d, s.weight_elements(), describe(s),
      [&](const Conv2dKernels& k, float* dw) { k.backward_weight(s, x.operand(), dy.operand(), dw); });
}

/// As many products of a lane as the int32 sums hold, all of the largest magnitude.
TEST_P(Depthwise, SumsOfExtremeCodesDoNotOverflow) {
  Random random(8);
  const ConvShape large_kernel{.in_channels = 17,
                               .in_height = 17,
                               .in_width = 18,
                               .out_channels = 17,
                               .kernel_height = 16,
                               .kernel_width = 16,
                               .groups = 17};
  const ConvShape long_row{.in_channels = 17, .in_width = 600, .out_channels = 17, .groups = 17};
  for (const CodeType a : kCodeTypes) {
    for (const CodeType b : kCodeTypes) {
      for (const Fill fill : {Fill::kLowest, Fill::kHighest}) {
        check_extremes(depthwise::kConv2d, large_kernel, a, b, fill, random);
        check_extremes(depthwise::kConv2d, long_row, a, b, fill, random);
      }
    }
  }
}

TEST(DepthwiseDispatch, LeavesOtherProblemsToTheGeneralKernels) {
  const ConvShape plain{.in_channels = 8, .out_channels = 8};
  const ConvShape multiplied{.in_channels = 8, .out_channels = 16, .groups = 8};
  const ConvShape depth_wise{.in_channels = 8, .out_channels = 8, .groups = 8};
  EXPECT_FALSE(depthwise::supports(plain, Isa::kAvx2));
  EXPECT_FALSE(depthwise::supports(multiplied, Isa::kAvx2));
  EXPECT_TRUE(depthwise::supports(depth_wise, Isa::kAvx2));
  EXPECT_FALSE(depthwise::supports(depth_wise, Isa::kScalar));
}

}  // namespace
}  // namespace bitdial::kernels
