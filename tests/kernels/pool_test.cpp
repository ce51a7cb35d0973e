#include "bitdial/kernels/pool.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/kernels/isa.h"
#include "tests/kernels/random_data.h"

namespace bitdial::kernels {
namespace {

PoolShape pool_shape(std::mt19937& random) {
  PoolShape s;
  s.batch = 1 + static_cast<int64_t>(random() % 3);
  s.channels = 1 + static_cast<int64_t>(random() % 40);
  s.kernel = 2 + static_cast<int64_t>(random() % 2);
  s.stride = 1 + static_cast<int64_t>(random() % 3);
  s.padding = static_cast<int64_t>(random() % 2);
  s.in_height = 3 + static_cast<int64_t>(random() % 8);
  s.in_width = 3 + static_cast<int64_t>(random() % 8);
  return s;
}

struct PoolResult {
  Data y, best, dx;
  std::vector<uint8_t> where;
  std::vector<uint8_t> codes;
};

Format int8_format() { return {.rule = ScaleRule::kAffine, .word_length = 8}; }

// The codes are those of the values, kept or not, and a pass without `best` finds the same places.
void check_codes(MaxPool pass, Range range, PoolResult& r) {
  const Format format = int8_format();
  const QuantParams params = choose_params(format, range);
  std::vector<uint8_t> expected(r.codes.size());
  const TensorShape shape = pass.shape.output();
  const QuantizeStatistics kept = compute_and_quantize(pass, format, {&params, 1}, {}, r.codes.data());
  const auto quantized = [&](const auto* y) {
    return quantize(y, shape, format, {&params, 1}, {}, expected.data());
  };
  const QuantizeStatistics whole = pass.type == OutputType::kFloat32
                                       ? quantized(static_cast<const float*>(pass.values))
                                       : quantized(static_cast<const BFloat16*>(pass.values));
  EXPECT_EQ(r.codes, expected);
  EXPECT_EQ(kept.zeros, whole.zeros);
  EXPECT_EQ(kept.range.max, range.max);
  std::vector<uint8_t> where = r.where;
  pass.where = where.data();
  pass.best = pass.values = nullptr;
  std::vector<uint8_t> codes(r.codes.size());
  compute_and_quantize(pass, format, {&params, 1}, {}, codes.data());
  EXPECT_EQ(where, r.where);
  for (size_t i = 0; i < codes.size(); ++i)
    EXPECT_LE(std::abs(codes[i] - r.codes[i]), 1) << "bfloat16 in between";
  if (pass.type == OutputType::kFloat32) {
    EXPECT_EQ(codes, r.codes);
  }
}

/// The seed alternates between a plain pool and one behind a scale, a shift and every activation but GELU.
PoolResult pool(const PoolShape& s, OutputType type, uint32_t seed) {
  std::mt19937 random(seed);
  Data x(type, s.input_elements(), random, 3.0F);
  Data dy(type, s.output_elements(), random, 1.0F);
  dy.values[0] = -0.0F;
  dy.halves[0] = 0x8000;
  const auto outputs = static_cast<size_t>(s.output_elements());
  PoolResult r{.y = dy,
               .best = dy,
               .dx = x,
               .where = std::vector<uint8_t>(outputs),
               .codes = std::vector<uint8_t>(outputs)};
  const std::vector<float> scale = random_row(s.channels, random), shift = random_row(s.channels, random);
  const bool is_affine = seed % 4 >= 2;
  const auto activation = static_cast<Activation>(seed / 4 % 3);
  MaxPool pass{.shape = s,
               .type = type,
               .x = x.data(),
               .activation = activation,
               .where = r.where.data(),
               .best = r.best.data(),
               .values = r.y.data()};
  if (is_affine) {
    pass.scale = scale.data();
    pass.shift = shift.data();
  }
  const Range range = compute(pass);
  max_pool_backward(s, type, dy.data(), r.where.data(), r.dx.data());
  check_codes(pass, range, r);

  std::vector<float> expected(static_cast<size_t>(s.input_elements()));
  for (int64_t i = 0; i < s.output_elements(); ++i) {
    const int64_t c = i % s.channels, pixel = i / s.channels;
    const int64_t ow = pixel % s.out_width(), oh = pixel / s.out_width() % s.out_height();
    const int64_t n = pixel / (s.out_width() * s.out_height());
    float best = -std::numeric_limits<float>::infinity();
    int64_t from = -1;
    for (int64_t h = oh * s.stride - s.padding; h < oh * s.stride - s.padding + s.kernel; ++h) {
      for (int64_t w = ow * s.stride - s.padding; w < ow * s.stride - s.padding + s.kernel; ++w) {
        if (h < 0 || w < 0 || h >= s.in_height || w >= s.in_width) continue;
        const int64_t at = ((n * s.in_height + h) * s.in_width + w) * s.channels + c;
        const auto k = static_cast<size_t>(c);
        const float value = is_affine ? std::fma(x.at(at), scale[k], shift[k]) : x.at(at);
        if (value > best) {
          best = value;
          from = at;
        }
      }
    }
    const bool is_cut = (activation != Activation::kNone && best <= 0.0F) ||
                        (activation == Activation::kRelu6 && best >= 6.0F);
    if (activation != Activation::kNone) best = std::max(best, 0.0F);
    if (activation == Activation::kRelu6) best = std::min(best, 6.0F);
    EXPECT_EQ(r.y.at(i), type == OutputType::kFloat32 ? best : widen(narrow(best)));
    EXPECT_EQ(r.where[static_cast<size_t>(i)] == kNowhere, is_cut);
    EXPECT_EQ(r.best.at(i), x.at(from));
    if (!is_cut) expected[static_cast<size_t>(from)] += dy.at(i);
  }
  for (int64_t i = 0; i < s.input_elements(); ++i) {
    const float e = expected[static_cast<size_t>(i)];
    EXPECT_NEAR(r.dx.at(i), e, std::abs(e) / 128.0F + 1e-6F);
  }
  return r;
}

TEST(Pool, MaxPoolIsItsDefinitionOnEveryInstructionSet) {
  std::mt19937 random(11);
  for (int i = 0; i < 60; ++i) {
    const PoolShape s = pool_shape(random);
    const OutputType type = i % 2 ? OutputType::kFloat32 : OutputType::kBFloat16;
    std::vector<PoolResult> results;
    for (const Isa isa : available_isas()) {
      const ScopedIsa scoped(isa);
      results.push_back(pool(s, type, static_cast<uint32_t>(i)));
      ASSERT_EQ(results.back().y, results.front().y) << to_string(isa);
      ASSERT_EQ(results.back().where, results.front().where) << to_string(isa);
      ASSERT_EQ(results.back().best, results.front().best) << to_string(isa);
      ASSERT_EQ(results.back().dx, results.front().dx) << to_string(isa);
      ASSERT_EQ(results.back().codes, results.front().codes) << to_string(isa);
    }
  }
}

TEST(Pool, AveragePoolIsItsDefinitionOnEveryInstructionSet) {
  std::mt19937 random(13);
  for (int i = 0; i < 40; ++i) {
    const AverageShape s{.batch = 1 + static_cast<int64_t>(random() % 5),
                         .pixels = 1 + static_cast<int64_t>(random() % 70),
                         .channels = 1 + static_cast<int64_t>(random() % 70)};
    const OutputType type = i % 2 ? OutputType::kFloat32 : OutputType::kBFloat16;
    Data x(type, s.batch * s.pixels * s.channels, random, 3.0F);
    Data dy(OutputType::kFloat32, s.batch * s.channels, random, 1.0F);
    std::vector<Data> means, gradients;
    for (const Isa isa : available_isas()) {
      const ScopedIsa scoped(isa);
      means.push_back(dy);
      gradients.push_back(x);
      average_pool(s, type, x.data(), static_cast<float*>(means.back().data()));
      average_pool_backward(s, type, static_cast<const float*>(dy.data()), gradients.back().data());
      ASSERT_EQ(means.back(), means.front()) << to_string(isa);
      ASSERT_EQ(gradients.back(), gradients.front()) << to_string(isa);
    }
    for (int64_t to = 0; to < s.batch * s.channels; ++to) {
      const int64_t n = to / s.channels, c = to % s.channels;
      double sum = 0.0;
      for (int64_t pixel = 0; pixel < s.pixels; ++pixel) {
        const int64_t from = (n * s.pixels + pixel) * s.channels + c;
        sum += static_cast<double>(x.at(from));
        const double dx = static_cast<double>(dy.at(to)) / static_cast<double>(s.pixels);
        EXPECT_NEAR(static_cast<double>(gradients[0].at(from)), dx,
                    std::abs(dx) / (type == OutputType::kFloat32 ? 1e6 : 256.0));
      }
      EXPECT_NEAR(static_cast<double>(means[0].at(to)), sum / static_cast<double>(s.pixels), 3e-6);
    }
  }
}

// A pass that makes the pool's gradient on its way reads the same numbers as one behind max_pool_backward.
TEST(Pool, TheGradientNeedNotExist) {
  std::mt19937 random(17);
  for (int i = 0; i < 40; ++i) {
    const PoolShape s = pool_shape(random);
    const OutputType type = i % 2 ? OutputType::kFloat32 : OutputType::kBFloat16;
    Data dy(type, s.output_elements(), random, 1.0F), z(type, s.input_elements(), random, 1.0F), dx = z;
    std::vector<uint8_t> where(static_cast<size_t>(s.output_elements()));
    for (uint8_t& place : where)
      place = static_cast<uint8_t>(random() % static_cast<uint32_t>(s.kernel * s.kernel));
    max_pool_backward(s, type, dy.data(), where.data(), dx.data());
    const std::vector<float> scale = random_row(s.channels, random), slope = random_row(s.channels, random);
    AffineTensor y{.shape = {.outer = s.batch, .channels = s.channels, .inner = s.in_height * s.in_width},
                   .type = type,
                   .a = dx.data(),
                   .b = z.data(),
                   .scale_a = scale.data(),
                   .scale_b = slope.data()};
    const Format format = int8_format();
    const QuantParams params{.scale = 0.05F};
    std::vector<uint8_t> expected(dx.values.size()), codes(dx.values.size());
    compute_and_quantize(y, format, {&params, 1}, {}, expected.data());
    const MaxPoolGradient gradient(s, type, dy.data(), where.data());
    y.a = nullptr;
    y.pooled = &gradient;
    compute_and_quantize(y, format, {&params, 1}, {}, codes.data());
    ASSERT_EQ(codes, expected);
  }
}

TEST(Pool, RefusesWhatIsImpossible) {
  float x[4] = {};
  uint8_t where[4] = {};
  MaxPool pool{.shape = {.in_height = 1, .in_width = 1}, .x = x, .where = where, .values = x};
  EXPECT_THROW(compute(pool), Error);
  pool.shape.in_height = pool.shape.in_width = 2;
  pool.activation = Activation::kGelu;
  EXPECT_THROW(compute(pool), Error);
}

}  // namespace
}  // namespace bitdial::kernels
