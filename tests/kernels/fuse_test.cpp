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
#include "tests/kernels/random_data.h"

namespace bitdial::kernels {
namespace {

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
                   .activation = static_cast<Activation>(random() % 5),
                   .has_b = random() % 2 == 0,
                   .has_scales = random() % 3 != 0});
  }
  return all;
}

bool has_mask(Activation activation) {
  return activation == Activation::kRelu || activation == Activation::kRelu6;
}

double normal_distribution(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double derivative(Activation activation, double x) {
  if (activation == Activation::kTanh) return 1.0 - std::tanh(x) * std::tanh(x);
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
    if (c_.activation == Activation::kTanh) return std::tanh(y);
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

SumsResult sums_of(const Case& c, bool with_z, bool with_where) {
  Problem problem(c);
  const int64_t n = problem.elements(), pixels = c.outer * c.inner;
  Data g(c.type, n, problem.random_, 1.0F);
  std::vector<uint16_t> mask(static_cast<size_t>(mask_words(n)));
  for (uint16_t& word : mask) word = static_cast<uint16_t>(problem.random_());
  std::vector<uint8_t> where(static_cast<size_t>(n));
  for (uint8_t& place : where) place = problem.random_() % 3 == 0 ? kNowhere : 1;
  const auto channels = static_cast<size_t>(c.channels);
  SumsResult r{.g = g, .sums = std::vector<double>(2 * channels)};
  const bool smooth = is_smooth(c.activation) && !with_z;
  gradient_sums({.type = c.type,
                 .pixels = pixels,
                 .channels = c.channels,
                 .g = r.g.data(),
                 .other = c.has_b ? problem.b_.data() : nullptr,
                 .mask = has_mask(c.activation) ? mask.data() : nullptr,
                 .where = with_where ? where.data() : nullptr,
                 .activation = smooth ? c.activation : Activation::kNone,
                 .activation_input = smooth ? problem.a_.data() : nullptr,
                 .z = with_z ? problem.a_.data() : nullptr,
                 .shift = problem.shift_.data(),
                 .sum = r.sums.data(),
                 .product_sum = with_z ? r.sums.data() + channels : nullptr});

  std::vector<double> expected(2 * channels);
  for (int64_t i = 0; i < n; ++i) {
    const auto k = static_cast<size_t>(i % c.channels);
    const double d = static_cast<double>(problem.a_.at(i)) - static_cast<double>(problem.shift_[k]);
    const bool passes =
        (!has_mask(c.activation) || (mask[static_cast<size_t>(i / 16)] >> (i % 16) & 1) != 0) &&
        !(with_where && where[static_cast<size_t>(i)] == kNowhere);
    float all = g.at(i) + (c.has_b ? problem.b_.at(i) : 0.0F);
    const float tolerance = smooth ? std::abs(all) * 1e-6F : 0.0F;
    if (smooth) {
      all = static_cast<float>(static_cast<double>(all) *
                               derivative(c.activation, static_cast<double>(problem.a_.at(i))));
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
    for (const auto& [with_z, with_where] : {std::pair(false, false), {true, false}, {true, true}}) {
      std::vector<SumsResult> results;
      for (const Isa isa : available_isas()) {
        const ScopedIsa scoped(isa);
        results.push_back(sums_of(c, with_z, with_where));
        ASSERT_EQ(results.back().g, results.front().g) << to_string(isa);
        ASSERT_EQ(results.back().sums, results.front().sums) << to_string(isa);
      }
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
