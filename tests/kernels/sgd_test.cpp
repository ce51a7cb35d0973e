#include "bitdial/kernels/sgd.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/kernels/isa.h"

namespace bitdial::kernels {
namespace {

struct Tensors {
  std::vector<float> weight, gradient, momentum;

  explicit Tensors(int64_t count) {
    std::mt19937 random(static_cast<uint32_t>(count));
    std::normal_distribution<float> normal;
    for (auto* row : {&weight, &gradient, &momentum}) {
      row->resize(static_cast<size_t>(count));
      for (float& x : *row) x = normal(random);
    }
  }
  SgdUpdate update(bool nesterov, bool is_first) {
    return {.count = static_cast<int64_t>(weight.size()),
            .weight = weight.data(),
            .gradient = gradient.data(),
            .momentum = momentum.data(),
            .learning_rate = 0.1F,
            .momentum_factor = 0.9F,
            .dampening = 0.25F,
            .weight_decay = 0.01F,
            .nesterov = nesterov,
            .is_first = is_first};
  }
};

constexpr std::array<int64_t, 5> kCounts = {1, 15, 16, 2048, 5003};
constexpr std::array<std::array<bool, 2>, 4> kSwitches = {
    {{false, false}, {false, true}, {true, false}, {true, true}}};

TEST(Sgd, IsItsDefinition) {
  for (const int64_t count : kCounts) {
    for (const auto& [nesterov, is_first] : kSwitches) {
      Tensors now(count);
      const Tensors old = now;
      const Range range = update(now.update(nesterov, is_first));
      float low = std::numeric_limits<float>::infinity(), high = -low;
      for (size_t i = 0; i < old.weight.size(); ++i) {
        const double w = old.weight[i], g = old.gradient[i] + 0.01 * w;
        const double m = is_first ? g : 0.9 * old.momentum[i] + 0.75 * g;
        EXPECT_NEAR(now.momentum[i], m, 1e-5);
        EXPECT_NEAR(now.weight[i], w - 0.1 * (nesterov ? g + 0.9 * m : m), 1e-5);
        low = std::min(low, now.weight[i]);
        high = std::max(high, now.weight[i]);
      }
      EXPECT_EQ(range, (Range{low, high}));
    }
  }
}

TEST(Sgd, IsTheSameOnEveryInstructionSetAndQuantisesWhatItStores) {
  const Format format{.rule = ScaleRule::kSymmetric, .word_length = 8};
  const QuantParams params{.scale = 0.02F};
  for (const int64_t count : kCounts) {
    const TensorShape shape{.outer = 1, .channels = count, .inner = 1};
    for (const auto& [nesterov, is_first] : kSwitches) {
      std::vector<Tensors> all;
      for (const Isa isa : available_isas()) {
        const ScopedIsa scoped(isa);
        Tensors now(count);
        std::vector<int8_t> codes(now.weight.size()), expected(codes.size());
        const auto statistics = update_and_quantize(now.update(nesterov, is_first), shape, format,
                                                    {&params, 1}, {}, codes.data());
        const auto same = quantize(now.weight.data(), shape, format, {&params, 1}, {}, expected.data());
        ASSERT_EQ(codes, expected) << to_string(isa);
        ASSERT_EQ(statistics.range, same.range);
        ASSERT_EQ(statistics.saturated, same.saturated);
        all.push_back(now);
        ASSERT_EQ(all.back().weight, all.front().weight) << to_string(isa);
        ASSERT_EQ(all.back().momentum, all.front().momentum) << to_string(isa);
      }
    }
  }
}

TEST(Sgd, WithoutMomentumIsPlainDescent) {
  Tensors now(100);
  const Tensors old = now;
  SgdUpdate plain = now.update(false, false);
  plain.momentum = nullptr;
  EXPECT_THROW(update(plain), Error);
  plain.momentum_factor = 0.0F;
  update(plain);
  EXPECT_EQ(now.momentum, old.momentum);
  EXPECT_NEAR(now.weight[7], old.weight[7] * (1.0F - 0.001F) - 0.1F * old.gradient[7], 1e-6F);
}

TEST(Sgd, SaysWhereAGradientIsNotFinite) {
  Tensors now(3000);
  now.gradient[2500] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(update(now.update(false, false)).is_finite());
}

}  // namespace
}  // namespace bitdial::kernels
