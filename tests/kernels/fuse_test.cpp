#include "bitdial/kernels/fuse.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <vector>

#include "bitdial/kernels/isa.h"

namespace bitdial::kernels {
namespace {

float widen(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
uint16_t narrow(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

/// A tensor of either type, and its values as float32.
struct Data {
  OutputType type;
  std::vector<float> values;
  std::vector<uint16_t> halves;

  Data(OutputType which, int64_t count, std::mt19937& random, float spread) : type(which) {
    std::normal_distribution<float> normal(0.0F, spread);
    values.resize(static_cast<size_t>(count));
    for (float& x : values) x = type == OutputType::kFloat32 ? normal(random) : widen(narrow(normal(random)));
    for (const float x : values) halves.push_back(narrow(x));
  }
  void* data() { return type == OutputType::kFloat32 ? static_cast<void*>(values.data()) : halves.data(); }
  float at(int64_t i) const {
    const auto k = static_cast<size_t>(i);
    return type == OutputType::kFloat32 ? values[k] : widen(halves[k]);
  }
  bool operator==(const Data& other) const {
    return type == OutputType::kFloat32
               ? std::memcmp(values.data(), other.values.data(), values.size() * sizeof(float)) == 0
               : halves == other.halves;
  }
};

std::vector<float> random_row(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0F, 1.0F);
  std::vector<float> row(static_cast<size_t>(count));
  for (float& x : row) x = normal(random);
  return row;
}

struct Case {
  int64_t outer, channels, inner;
  OutputType type;
  Activation activation;
  bool has_b, has_scales;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  std::mt19937 random(7);
  const std::array<int64_t, 10> channels = {1, 3, 10, 16, 24, 32, 64, 100, 128, 960};
  for (int i = 0; i < 120; ++i) {
    all.push_back({.outer = 1 + static_cast<int64_t>(random() % 5),
                   .channels = channels[random() % channels.size()],
                   .inner = 1 + static_cast<int64_t>(random() % 70),
                   .type = random() % 2 ? OutputType::kFloat32 : OutputType::kBFloat16,
                   .activation = static_cast<Activation>(random() % 4),
                   .has_b = random() % 2 == 0,
                   .has_scales = random() % 3 != 0});
  }
  return all;
}

bool has_mask(Activation activation) {
  return activation == Activation::kRelu || activation == Activation::kRelu6;
}

double normal_distribution(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double gelu_derivative(double x) {
  return normal_distribution(x) + x * std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);
}

struct AffineResult {
  Data y;
  std::vector<uint16_t> mask;
  std::vector<int8_t> codes;
  Range range, quantized_range;
  QuantizeStatistics statistics;
};

Format gradient_format() {
  return {.rule = ScaleRule::kSymmetric, .word_length = 8, .rounding = Rounding::kStochastic};
}

class Problem {
 public:
  explicit Problem(const Case& c)
      : c_(c),
        random_(static_cast<uint32_t>(c.channels * 1000 + c.inner)),
        a_(c.type, elements(), random_, 3.0F),
        b_(c.type, elements(), random_, 2.0F),
        scale_a_(random_row(c.channels, random_)),
        scale_b_(random_row(c.channels, random_)),
        shift_(random_row(c.channels, random_)) {}

  int64_t elements() const { return c_.outer * c_.channels * c_.inner; }

  AffineTensor tensor(void* values, uint16_t* mask) {
    return {.shape = {.outer = c_.outer, .channels = c_.channels, .inner = c_.inner},
            .type = c_.type,
            .a = a_.data(),
            .b = c_.has_b ? b_.data() : nullptr,
            .scale_a = c_.has_scales ? scale_a_.data() : nullptr,
            .scale_b = c_.has_scales ? scale_b_.data() : nullptr,
            .shift = c_.has_scales ? shift_.data() : nullptr,
            .activation = c_.activation,
            .mask = mask,
            .values = values};
  }

  void widen_inputs(AffineTensor& tensor) const {
    tensor.type = OutputType::kFloat32;
    tensor.a = a_.values.data();
    if (c_.has_b) tensor.b = b_.values.data();
  }

  AffineResult affine() {
    const auto words = static_cast<size_t>(mask_words(elements()));
    AffineResult r{.y = Data(c_.type, elements(), random_, 1.0F),
                   .mask = std::vector<uint16_t>(words),
                   .codes = std::vector<int8_t>(static_cast<size_t>(elements())),
                   .range = {},
                   .quantized_range = {},
                   .statistics = {}};
    uint16_t* mask = has_mask(c_.activation) ? r.mask.data() : nullptr;
    r.range = compute(tensor(r.y.data(), mask));
    const QuantParams params{.scale = 0.03F};
    r.statistics = compute_and_quantize(tensor(nullptr, nullptr), gradient_format(), {&params, 1},
                                        RandomKey{3, 4}, r.codes.data());
    return r;
  }

  /// The definition, in float64.
  double expected(int64_t i) const {
    const auto c = static_cast<size_t>(i % c_.channels);
    double y = static_cast<double>(a_.at(i));
    if (c_.has_scales) y = y * static_cast<double>(scale_a_[c]) + static_cast<double>(shift_[c]);
    if (c_.has_b)
      y += static_cast<double>(b_.at(i)) * (c_.has_scales ? static_cast<double>(scale_b_[c]) : 1.0);
    if (c_.activation == Activation::kGelu) return y * normal_distribution(y);
    if (c_.activation != Activation::kNone) y = std::max(y, 0.0);
    return c_.activation == Activation::kRelu6 ? std::min(y, 6.0) : y;
  }

  const Case& c_;
  std::mt19937 random_;
  Data a_, b_;
  std::vector<float> scale_a_, scale_b_, shift_;
};

TEST(Fuse, AffineIsItsDefinition) {
  for (const Case& c : cases()) {
    Problem problem(c);
    const ScopedIsa scalar(Isa::kScalar);
    const AffineResult r = problem.affine();
    for (int64_t i = 0; i < problem.elements(); ++i) {
      const double y = problem.expected(i);
      const double tolerance = c.type == OutputType::kFloat32 ? 1e-5 : std::abs(y) / 256.0 + 1e-6;
      ASSERT_NEAR(static_cast<double>(r.y.at(i)), y, tolerance) << "element " << i;
      if (!has_mask(c.activation)) continue;
      const bool passes = (r.mask[static_cast<size_t>(i / 16)] >> (i % 16) & 1) != 0;
      const bool inside = y > 1e-5 && !(c.activation == Activation::kRelu6 && y > 6.0 - 1e-5);
      if (inside) {
        ASSERT_TRUE(passes);
      } else if (y == 0.0) {
        ASSERT_FALSE(passes);
      }
    }
  }
}

TEST(Fuse, EveryInstructionSetComputesTheSameBits) {
  for (const Case& c : cases()) {
    std::vector<AffineResult> results;
    for (const Isa isa : available_isas()) {
      const ScopedIsa scoped(isa);
      Problem problem(c);
      results.push_back(problem.affine());
      const AffineResult &first = results.front(), &r = results.back();
      ASSERT_EQ(r.y, first.y) << to_string(isa) << " channels " << c.channels;
      ASSERT_EQ(r.mask, first.mask) << to_string(isa);
      ASSERT_EQ(r.codes, first.codes) << to_string(isa);
      ASSERT_EQ(r.range, first.range) << to_string(isa);
      ASSERT_EQ(r.statistics.saturated, first.statistics.saturated);
      ASSERT_EQ(r.statistics.zeros, first.statistics.zeros);
    }
  }
}

// Quantising on the fly is quantising the stored values, or what they were before they were rounded.
TEST(Fuse, CodesAreThoseOfTheValues) {
  for (const Case& c : cases()) {
    Problem problem(c);
    AffineResult whole = problem.affine();
    Data stored = whole.y;
    AffineTensor tensor = problem.tensor(stored.data(), nullptr);
    std::vector<int8_t> codes(whole.codes.size()), expected(codes.size());
    const TensorShape shape{.outer = c.outer, .channels = c.channels, .inner = c.inner};
    const QuantParams params{.scale = 0.03F};
    const RandomKey key{3, 4};
    const auto check = [&](const QuantizeStatistics& statistics, const QuantizeStatistics& of_expected) {
      ASSERT_EQ(codes, expected);
      ASSERT_EQ(statistics.range, of_expected.range);
      ASSERT_EQ(statistics.saturated, of_expected.saturated);
    };

    const auto statistics = compute_and_quantize(tensor, gradient_format(), {&params, 1}, key, codes.data());
    ASSERT_EQ(stored, whole.y);
    ASSERT_EQ(statistics.range, whole.range);
    check(statistics,
          c.type == OutputType::kFloat32
              ? quantize(stored.values.data(), shape, gradient_format(), {&params, 1}, key, expected.data())
              : quantize(static_cast<const BFloat16*>(stored.data()), shape, gradient_format(), {&params, 1},
                         key, expected.data()));

    std::vector<float> floats(codes.size());
    tensor = problem.tensor(floats.data(), nullptr);
    problem.widen_inputs(tensor);
    compute(tensor);
    codes = whole.codes;
    check(whole.statistics,
          quantize(floats.data(), shape, gradient_format(), {&params, 1}, key, expected.data()));
  }
}

struct SumsResult {
  Data g;
  std::vector<double> sums;
};

SumsResult sums_of(const Case& c, bool with_z) {
  Problem problem(c);
  const int64_t n = problem.elements(), pixels = c.outer * c.inner;
  Data g(c.type, n, problem.random_, 1.0F);
  std::vector<uint16_t> mask(static_cast<size_t>(mask_words(n)));
  for (uint16_t& word : mask) word = static_cast<uint16_t>(problem.random_());
  const auto channels = static_cast<size_t>(c.channels);
  SumsResult r{.g = g, .sums = std::vector<double>(2 * channels)};
  const bool is_gelu = c.activation == Activation::kGelu && !with_z;
  gradient_sums({.type = c.type,
                 .pixels = pixels,
                 .channels = c.channels,
                 .g = r.g.data(),
                 .other = c.has_b ? problem.b_.data() : nullptr,
                 .mask = has_mask(c.activation) ? mask.data() : nullptr,
                 .gelu_input = is_gelu ? problem.a_.data() : nullptr,
                 .z = with_z ? problem.a_.data() : nullptr,
                 .shift = problem.shift_.data(),
                 .sum = r.sums.data(),
                 .product_sum = with_z ? r.sums.data() + channels : nullptr});

  std::vector<double> expected(2 * channels);
  for (int64_t i = 0; i < n; ++i) {
    const auto k = static_cast<size_t>(i % c.channels);
    const double d = static_cast<double>(problem.a_.at(i)) - static_cast<double>(problem.shift_[k]);
    const bool passes = !has_mask(c.activation) || (mask[static_cast<size_t>(i / 16)] >> (i % 16) & 1) != 0;
    float all = g.at(i) + (c.has_b ? problem.b_.at(i) : 0.0F);
    const float tolerance = is_gelu ? std::abs(all) * 1e-6F : 0.0F;
    if (is_gelu) {
      all = static_cast<float>(static_cast<double>(all) *
                               gelu_derivative(static_cast<double>(problem.a_.at(i))));
    }
    EXPECT_NEAR(r.g.at(i), passes ? all : 0.0F,
                c.type == OutputType::kFloat32 ? tolerance : std::abs(all) / 256.0F + tolerance);
    expected[k] += static_cast<double>(r.g.at(i));
    expected[channels + k] += static_cast<double>(r.g.at(i)) * d;
  }
  const double scale = 1e-6 * static_cast<double>(pixels) * 20.0;
  for (size_t k = 0; k < channels; ++k) {
    EXPECT_NEAR(r.sums[k], expected[k], scale);
    if (with_z) {
      EXPECT_NEAR(r.sums[channels + k], expected[channels + k], scale * 5.0);
    }
  }
  return r;
}

TEST(Fuse, SumsAreTheirDefinitionOnEveryInstructionSet) {
  for (const Case& c : cases()) {
    for (const bool with_z : {false, true}) {
      std::vector<SumsResult> results;
      for (const Isa isa : available_isas()) {
        const ScopedIsa scoped(isa);
        results.push_back(sums_of(c, with_z));
        ASSERT_EQ(results.back().g, results.front().g) << to_string(isa);
        ASSERT_EQ(results.back().sums, results.front().sums) << to_string(isa);
      }
    }
  }
}

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
  Data y, dx;
  std::vector<uint8_t> where;
};

/// The seed alternates between a plain pool and one behind a scale, a shift and every activation but GELU.
PoolResult pool(const PoolShape& s, OutputType type, uint32_t seed) {
  std::mt19937 random(seed);
  Data x(type, s.input_elements(), random, 3.0F);
  Data dy(type, s.output_elements(), random, 1.0F);
  PoolResult r{.y = dy, .dx = x, .where = std::vector<uint8_t>(static_cast<size_t>(s.output_elements()))};
  const std::vector<float> scale = random_row(s.channels, random), shift = random_row(s.channels, random);
  const bool is_affine = seed % 4 >= 2;
  const auto activation = static_cast<Activation>(seed / 4 % 3);
  PoolInput input{.type = type, .x = x.data(), .activation = activation};
  if (is_affine) {
    input.scale = scale.data();
    input.shift = shift.data();
  }
  max_pool(s, input, r.y.data(), r.where.data());
  max_pool_backward(s, type, dy.data(), r.where.data(), r.dx.data());

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
    if (!is_cut) expected[static_cast<size_t>(from)] += dy.at(i);
  }
  for (int64_t i = 0; i < s.input_elements(); ++i) {
    const float e = expected[static_cast<size_t>(i)];
    EXPECT_NEAR(r.dx.at(i), e, std::abs(e) / 128.0F + 1e-6F);
  }
  return r;
}

TEST(Fuse, MaxPoolIsItsDefinitionOnEveryInstructionSet) {
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
      ASSERT_EQ(results.back().dx, results.front().dx) << to_string(isa);
    }
  }
}

TEST(Fuse, AveragePoolIsItsDefinitionOnEveryInstructionSet) {
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

TEST(Fuse, NotFiniteShowsInTheRange) {
  std::mt19937 random(1);
  Data x(OutputType::kFloat32, 64, random, 1.0F);
  x.values[40] = std::nanf("");
  for (const Isa isa : available_isas()) {
    const ScopedIsa scoped(isa);
    std::vector<float> y(64);
    const Range range = compute({.shape = {.outer = 2, .channels = 16, .inner = 2},
                                 .a = x.data(),
                                 .activation = Activation::kRelu,
                                 .values = y.data()});
    EXPECT_FALSE(range.is_finite()) << to_string(isa);
  }
}

}  // namespace
}  // namespace bitdial::kernels
