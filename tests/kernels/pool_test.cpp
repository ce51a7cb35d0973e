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

/// The seed alternates between a plain pool and one behind a scale, a shift and ReLU, ReLU6 or neither.
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

AveragePoolShape average_shape(std::mt19937& random) {
  const auto below = [&](int64_t end) { return static_cast<int64_t>(random() % static_cast<uint32_t>(end)); };
  AveragePoolShape s{.batch = 1 + below(5), .channels = 1 + below(70)};
  s.kernel_height = 1 + below(5);
  s.kernel_width = 1 + below(5);
  s.stride_height = 1 + below(4);
  s.stride_width = 1 + below(4);
  const bool is_global = below(3) == 0;
  s.in_height = s.kernel_height + (is_global ? 0 : below(6));
  s.in_width = s.kernel_width + (is_global ? 0 : below(6));
  return s;
}

struct AverageResult {
  Data y, floats, dx;
  std::vector<uint8_t> codes, codes_of_floats;
  bool operator==(const AverageResult&) const = default;
};

AverageResult average(const AveragePoolShape& s, OutputType type, Data& x, Data& dy) {
  std::mt19937 random(5);
  const auto outputs = static_cast<size_t>(s.output_elements());
  AverageResult r{.y = dy,
                  .floats = Data(OutputType::kFloat32, s.output_elements(), random, 1.0F),
                  .dx = x,
                  .codes = std::vector<uint8_t>(outputs),
                  .codes_of_floats = std::vector<uint8_t>(outputs)};
  AveragePool pass{.shape = s, .type = type, .x = x.data(), .values_type = type, .values = r.y.data()};
  const Range range = compute(pass);
  const Format format = int8_format();
  const QuantParams params = choose_params(format, range);
  const QuantizeStatistics kept = compute_and_quantize(pass, format, {&params, 1}, {}, r.codes.data());
  EXPECT_EQ(kept.range, range);
  std::vector<uint8_t> expected(outputs);
  if (type == OutputType::kFloat32) {
    quantize(r.y.values.data(), s.output(), format, {&params, 1}, {}, expected.data());
  } else {
    quantize(static_cast<const BFloat16*>(r.y.data()), s.output(), format, {&params, 1}, {}, expected.data());
  }
  EXPECT_EQ(r.codes, expected);

  pass.values_type = OutputType::kFloat32;
  pass.values = r.floats.data();
  compute(pass);
  pass.values = nullptr;
  compute_and_quantize(pass, format, {&params, 1}, {}, r.codes_of_floats.data());
  quantize(r.floats.values.data(), s.output(), format, {&params, 1}, {}, expected.data());
  EXPECT_EQ(r.codes_of_floats, expected);
  average_pool_backward(s, type, dy.data(), r.dx.data());
  return r;
}

TEST(Pool, AveragePoolIsItsDefinitionOnEveryInstructionSet) {
  std::mt19937 random(13);
  for (int i = 0; i < 60; ++i) {
    const AveragePoolShape s = average_shape(random);
    const OutputType type = i % 2 ? OutputType::kFloat32 : OutputType::kBFloat16;
    Data x(type, s.input_elements(), random, 3.0F), dy(type, s.output_elements(), random, 1.0F);
    std::vector<AverageResult> results;
    for (const Isa isa : available_isas()) {
      const ScopedIsa scoped(isa);
      results.push_back(average(s, type, x, dy));
      ASSERT_EQ(results.back(), results.front()) << to_string(isa);
    }
    const AverageResult& r = results.front();
    const auto taps = static_cast<double>(s.kernel_height * s.kernel_width);
    std::vector<double> dx(static_cast<size_t>(s.input_elements()));
    for (int64_t to = 0; to < s.output_elements(); ++to) {
      const int64_t c = to % s.channels, pixel = to / s.channels;
      const int64_t ow = pixel % s.out_width(), row = pixel / s.out_width();
      const int64_t oh = row % s.out_height(), n = row / s.out_height();
      double sum = 0.0;
      for (int64_t h = oh * s.stride_height; h < oh * s.stride_height + s.kernel_height; ++h) {
        for (int64_t w = ow * s.stride_width; w < ow * s.stride_width + s.kernel_width; ++w) {
          const int64_t from = ((n * s.in_height + h) * s.in_width + w) * s.channels + c;
          sum += static_cast<double>(x.at(from));
          dx[static_cast<size_t>(from)] += static_cast<double>(dy.at(to)) / taps;
        }
      }
      const double mean = sum / taps;
      EXPECT_NEAR(static_cast<double>(r.floats.at(to)), mean, 3e-6);
      EXPECT_NEAR(static_cast<double>(r.y.at(to)), mean,
                  type == OutputType::kFloat32 ? 3e-6 : std::abs(mean) / 256.0 + 3e-6);
    }
    for (int64_t at = 0; at < s.input_elements(); ++at) {
      const double expected = dx[static_cast<size_t>(at)];
      EXPECT_NEAR(static_cast<double>(r.dx.at(at)), expected,
                  type == OutputType::kFloat32 ? 1e-6 : std::abs(expected) / 256.0 + 1e-6);
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
  for (const Activation activation : {Activation::kGelu, Activation::kTanh}) {
    pool.activation = activation;
    EXPECT_THROW(compute(pool), Error);
  }
  EXPECT_THROW(compute(AveragePool{.shape = {.in_height = 1, .in_width = 2}, .x = x, .values = x}), Error);
}

}  // namespace
}  // namespace bitdial::kernels
