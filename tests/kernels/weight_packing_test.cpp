#include "bitdial/kernels/weight_packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/problem.h"
#include "bitdial/kernels/sgd.h"

namespace bitdial::kernels {
namespace {

constexpr const char* kProblems[] = {"mb2ic64ih6oc64kh3ph1", "mb3ic16ih5oc48kh3sh2ph1", "mb2ic80ih4oc16kh1",
                                     "mb1ic32ih6oc144kh3ph1", "mb4ic48ih1oc32kh1"};

std::vector<int8_t> random_codes(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int8_t> codes(static_cast<size_t>(count));
  for (int8_t& code : codes) code = static_cast<int8_t>(random() % 256U);
  return codes;
}

std::vector<float> random_values(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

struct Results {
  std::vector<float> y, dx;
  bool operator==(const Results&) const = default;
};

/// FPROP and BPROP with a weight of these codes.
Results run(const ConvShape& s, const std::vector<int8_t>& codes, const void* forward, const void* backward) {
  const QuantParams params{.scale = 0.5F};
  const auto x = random_codes(s.input_elements(), 1), dy = random_codes(s.output_elements(), 2);
  Results results;
  results.y.resize(static_cast<size_t>(s.output_elements()));
  results.dx.resize(static_cast<size_t>(s.input_elements()));
  Operand w{codes.data(), CodeType::kS8, {&params, 1}};
  w.packed = forward;
  conv2d_forward(s, {x.data(), CodeType::kS8, {&params, 1}}, w, nullptr, {results.y.data()});
  w.packed = backward;
  conv2d_backward_data(s, {dy.data(), CodeType::kS8, {&params, 1}}, w, {results.dx.data()});
  return results;
}

void expect_same(const ConvShape& s, const std::string& what) {
  const Format format{.rule = ScaleRule::kSymmetric, .word_length = 8};
  const QuantParams params{.scale = 0.02F};
  const TensorShape shape{
      .outer = s.out_channels, .channels = s.in_channels, .inner = s.kernel_height * s.kernel_width};
  const int64_t count = s.weight_elements();
  const auto gradient = random_values(count, 4);
  const auto start = random_values(count, 3);
  auto weight = start, expected_weight = start;
  const SgdUpdate update{
      .count = count, .weight = weight.data(), .gradient = gradient.data(), .learning_rate = 0.1F};
  SgdUpdate expected_update = update;
  expected_update.weight = expected_weight.data();
  std::vector<int8_t> codes(static_cast<size_t>(count)), expected(codes.size());
  const auto statistics =
      update_and_quantize(expected_update, shape, format, {&params, 1}, {}, expected.data());

  auto packing = WeightPacking::of(s, CodeType::kS8);
  ASSERT_NE(packing, nullptr) << what;
  std::vector<int8_t> forward(static_cast<size_t>(packing->bytes())), backward(forward.size());
  packing->write_to(forward.data(), backward.data());
  const auto same = update_and_quantize(update, shape, format, {&params, 1}, {}, codes.data(), *packing);
  EXPECT_EQ(weight, expected_weight) << what;
  EXPECT_EQ(codes, expected) << what;
  EXPECT_EQ(same.saturated, statistics.saturated) << what;
  EXPECT_EQ(same.zeros, statistics.zeros) << what;
  EXPECT_EQ(same.range, statistics.range) << what;

  const Results results = run(s, expected, nullptr, nullptr);
  EXPECT_EQ(run(s, codes, forward.data(), backward.data()), results) << what;
  // It is the packed form that counts.
  std::ranges::fill(forward, int8_t{0});
  std::ranges::fill(backward, int8_t{0});
  const Results zeros = run(s, codes, forward.data(), backward.data());
  EXPECT_NE(zeros.y, results.y) << what;
  EXPECT_NE(zeros.dx, results.dx) << what;
}

TEST(WeightPacking, UpdateWritesTheCodesAndWhatTheNextStepReads) {
  const int threads = num_threads();
  for (const Isa isa : available_isas()) {
    if (isa == Isa::kScalar || isa == Isa::kAmx) continue;
    const ScopedIsa scoped(isa);
    for (const char* problem : kProblems) {
      for (const int count : {1, 2}) {
        set_num_threads(count);
        expect_same(parse_problem(problem), std::string(to_string(isa)) + " " + problem);
      }
    }
  }
  set_num_threads(threads);
}

TEST(WeightPacking, IsForKernelsThatTakeIt) {
  const auto of = [](const char* problem, CodeType type) {
    return WeightPacking::of(parse_problem(problem), type);
  };
  EXPECT_EQ(of("mb4g32ic32ih8oc32kh3ph1", CodeType::kS8), nullptr) << "depth-wise";
  EXPECT_EQ(of("mb4g2ic32ih8oc32kh3ph1", CodeType::kS8), nullptr) << "groups";
  EXPECT_EQ(of("mb4ic3ih8oc32kh3ph1", CodeType::kS8), nullptr) << "3 channels";
  EXPECT_EQ(of("mb4ic32ih8oc10kh1", CodeType::kS8), nullptr) << "10 channels";
  EXPECT_EQ(of("mb4ic32ih8oc32kh3ph1", CodeType::kS16), nullptr) << "two bytes";
  const ScopedIsa scoped(Isa::kScalar);
  EXPECT_EQ(of("mb4ic32ih8oc32kh3ph1", CodeType::kS8), nullptr) << "the scalar reference";
}

}  // namespace
}  // namespace bitdial::kernels
