#include "bitdial/kernels/gradient_packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/problem.h"
#include "bitdial/kernels/quantize.h"

namespace bitdial::kernels {
namespace {

// One panel and several, whole and ragged; one, two and broken blocks of images; strides; a narrow tensor.
constexpr const char* kProblems[] = {
    "mb64ic8ih8oc64kh3ph1", "mb9ic5ih4oc16kh3ph1", "mb66ic3ih6oc48kh3sh2ph1", "mb130ic4ih4oc20kh1",
    "mb3ic7ih8oc100kh3ph1", "mb5ic16ih1oc272kh1",  "mb4ic6ih16iw8oc32kh3ph1"};

struct Gradient {
  ConvShape shape;
  Format format;
  std::vector<float> dy;
  std::vector<int8_t> x;
  QuantParams params{.scale = 0.02F};
  RandomKey key = random_key({.seed = 3});

  Gradient(const std::string& problem, int word_length) : shape(parse_problem(problem)) {
    format = {.rule = ScaleRule::kSymmetric, .word_length = word_length, .rounding = Rounding::kStochastic};
    if (word_length > 8) params.scale = 1e-4F;
    std::mt19937 random(static_cast<uint32_t>(problem.size()) + static_cast<uint32_t>(word_length));
    std::normal_distribution<float> normal;
    dy.resize(static_cast<size_t>(shape.output_elements()));
    for (float& value : dy) value = normal(random);
    x.resize(static_cast<size_t>(shape.input_elements()));
    for (int8_t& code : x) code = static_cast<int8_t>(random() % 255U);
  }

  CodeType type() const { return format.word_length > 8 ? CodeType::kS16 : CodeType::kS8; }
  TensorShape tensor() const {
    return {.outer = shape.batch,
            .channels = shape.out_channels,
            .inner = shape.out_height() * shape.out_width()};
  }

  std::vector<float> weight_gradient(const void* codes, const void* packed) const {
    const QuantParams of_x{.scale = 0.5F};
    Operand second{codes, type(), {&params, 1}};
    second.packed = packed;
    std::vector<float> dw(static_cast<size_t>(shape.weight_elements()));
    conv2d_backward_weight(shape, {x.data(), CodeType::kS8, {&of_x, 1}}, second, dw.data());
    return dw;
  }
};

/// Both layouts in one pass against codes that WTGRAD packs itself.
void expect_same(const Gradient& g, const std::string& what) {
  const auto size = g.dy.size() * (g.format.word_length > 8 ? 2 : 1);
  std::vector<int8_t> expected(size), codes(size);
  const auto statistics = quantize(g.dy.data(), g.tensor(), g.format, {&g.params, 1}, g.key, expected.data());
  const auto packing = GradientPacking::of(g.shape, g.type());
  ASSERT_NE(packing, nullptr) << what;
  const ComputedTensor computed = {.compute = [&](int64_t begin, int64_t end, void* to) {
    EXPECT_EQ(begin % 16, 0) << what;
    std::copy(g.dy.begin() + begin, g.dy.begin() + end, static_cast<float*>(to));
  }};
  std::vector<int8_t> memory(static_cast<size_t>(packing->bytes()) + 64, int8_t{0x55});
  auto* packed = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  packing->write_to(packed);
  const auto same = quantize(computed, g.tensor(), g.format, {&g.params, 1}, g.key, codes.data(), *packing);
  EXPECT_EQ(codes, expected) << what;
  EXPECT_EQ(same.saturated, statistics.saturated) << what;
  EXPECT_EQ(same.zeros, statistics.zeros) << what;
  EXPECT_EQ(same.range, statistics.range) << what;
  const auto dw = g.weight_gradient(expected.data(), nullptr);
  EXPECT_EQ(g.weight_gradient(codes.data(), packed), dw) << what;
  // It is the packed form that counts.
  std::fill_n(packed, packing->bytes(), int8_t{0});
  EXPECT_NE(g.weight_gradient(codes.data(), packed), dw) << what;
}

TEST(GradientPacking, WritesTheCodesAndWhatWtgradReads) {
  const int threads = num_threads();
  for (const Isa isa : available_isas()) {
    const ScopedIsa scoped(isa);
    if (isa == Isa::kScalar || isa == Isa::kAmx) continue;
    for (const char* problem : kProblems) {
      for (const int word_length : {8, 16}) {
        const Gradient gradient(problem, word_length);
        for (const int count : {1, 2}) {
          set_num_threads(count);
          expect_same(gradient,
                      std::string(to_string(isa)) + " " + problem + " " + std::to_string(word_length));
        }
      }
    }
  }
  set_num_threads(threads);
}

TEST(GradientPacking, IsForKernelsThatTakeIt) {
  const auto of = [](const char* problem) {
    return GradientPacking::of(parse_problem(problem), CodeType::kS8);
  };
  EXPECT_EQ(of("mb4g32ic32ih8oc32kh3ph1"), nullptr) << "depth-wise";
  EXPECT_EQ(of("mb4g2ic32ih8oc32kh3ph1"), nullptr) << "groups";
  EXPECT_EQ(of("mb4ic32ih3oc31kh3ph1"), nullptr) << "an image of 279 elements";
  EXPECT_EQ(of("mb4ic32ih32oc64kh3ph1"), nullptr) << "an image of 65536 elements";
  const ScopedIsa scoped(Isa::kScalar);
  EXPECT_EQ(of("mb4ic32ih8oc32kh3ph1"), nullptr) << "the scalar reference";
}

}  // namespace
}  // namespace bitdial::kernels
