// Every instruction set against the definition of core/quantizer.h, element by element.
#include "bitdial/kernels/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/core/quantizer.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/quantize_kernels.h"
#include "tests/kernels/print_isa.h"

namespace bitdial::kernels {
namespace {

using Generator = std::mt19937_64;

int64_t uniform(Generator& generator, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

BFloat16 truncate(float x) { return {static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16)}; }
float widen(BFloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

/// Normal values with, now and then, a zero of either sign, a denormal, a tie, or something huge.
std::vector<float> make_data(Generator& generator, int64_t count, float spread) {
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> x(static_cast<size_t>(count));
  for (auto& value : x) {
    value = normal(generator);
    switch (uniform(generator, 0, 30)) {
      case 0:
        value = 0.0F;
        break;
      case 1:
        value = -0.0F;
        break;
      case 2:
        value = std::copysign(0x1p-140F, value);
        break;
      case 3:
        value = spread * (static_cast<float>(uniform(generator, -40, 40)) + 0.5F) / 16.0F;
        break;
      case 4:
        value *= 1e20F;
        break;
      default:
        break;
    }
  }
  return x;
}

Format make_format(Generator& generator) {
  constexpr ScaleRule kRules[] = {ScaleRule::kFixed, ScaleRule::kPowerOfTwo, ScaleRule::kPowerOfTwoVendor,
                                  ScaleRule::kSymmetric, ScaleRule::kAffine};
  Format format;
  format.rule = kRules[uniform(generator, 0, 4)];
  format.word_length = static_cast<int>(uniform(generator, 0, 4) == 0 ? uniform(generator, 17, 31)
                                                                      : uniform(generator, 2, 16));
  format.fraction_length = static_cast<int>(uniform(generator, 0, format.word_length + 4));
  format.exact_zero = uniform(generator, 0, 1) == 1;
  format.rounding = uniform(generator, 0, 1) == 1 ? Rounding::kStochastic : Rounding::kNearestEven;
  return format;
}

TensorShape make_shape(Generator& generator) {
  TensorShape shape;
  shape.outer = uniform(generator, 1, 5);
  shape.channels = uniform(generator, 0, 2) == 0 ? uniform(generator, 1, 300) : uniform(generator, 1, 40);
  shape.inner = uniform(generator, 1, 70);
  shape.order = uniform(generator, 0, 1) == 1 ? MemoryOrder::kPlanar : MemoryOrder::kInterleaved;
  return shape;
}

uint64_t logical_index(const TensorShape& shape, int64_t memory) {
  if (shape.order == MemoryOrder::kPlanar) return static_cast<uint64_t>(memory);
  const int64_t channel = memory % shape.channels;
  const int64_t pixel = memory / shape.channels % shape.inner;
  const int64_t outer = memory / (shape.channels * shape.inner);
  return static_cast<uint64_t>((outer * shape.channels + channel) * shape.inner + pixel);
}

int64_t code_bytes(Container container) {
  switch (container) {
    case Container::kInt8:
    case Container::kUInt8:
      return 1;
    case Container::kInt16:
    case Container::kUInt16:
      return 2;
    case Container::kFloat32:
      return 4;
  }
  return 0;
}

int64_t integer_code(Container container, const std::vector<char>& codes, int64_t i) {
  const char* at = codes.data() + i * code_bytes(container);
  switch (container) {
    case Container::kInt8:
      return *reinterpret_cast<const int8_t*>(at);
    case Container::kUInt8:
      return *reinterpret_cast<const uint8_t*>(at);
    case Container::kInt16:
      return *reinterpret_cast<const int16_t*>(at);
    case Container::kUInt16:
      return *reinterpret_cast<const uint16_t*>(at);
    case Container::kFloat32:
      break;
  }
  return 0;
}

struct Quantized {
  std::vector<char> codes;
  QuantizeStatistics statistics;
};

template <class Input>
Quantized run(const std::vector<Input>& x, const TensorShape& shape, const Format& format,
              const std::vector<QuantParams>& params, RandomKey key) {
  Quantized result;
  // One guard byte behind the codes shows a store that goes too far.
  result.codes.assign(static_cast<size_t>(shape.elements() * code_bytes(container(format)) + 1), 0x5A);
  result.statistics = quantize(x.data(), shape, format, params, key, result.codes.data());
  EXPECT_EQ(result.codes.back(), 0x5A);
  return result;
}

std::vector<QuantParams> params_of(const std::vector<float>& x, const TensorShape& shape,
                                   const Format& format, bool per_outer, float shrink) {
  std::vector<Range> ranges(per_outer ? static_cast<size_t>(shape.outer) : 1);
  measure_range(x.data(), shape, per_outer ? Granularity::kSample : Granularity::kTensor, ranges);
  std::vector<QuantParams> params;
  for (const Range& range : ranges) {
    params.push_back(choose_params(format, {range.min * shrink, range.max * shrink}));
  }
  return params;
}

class QuantizeKernels : public testing::TestWithParam<Isa> {
 protected:
  ScopedIsa isa_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(, QuantizeKernels,
                         testing::ValuesIn(available_isas().begin(), available_isas().end()),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(QuantizeKernels, EveryElementFollowsTheDefinition) {
  Generator generator(20);
  for (int round = 0; round < 600; ++round) {
    const Format format = make_format(generator);
    const TensorShape shape = make_shape(generator);
    // Huge values dominate the range of half of the rounds; the others clip them.
    const auto x = make_data(generator, shape.elements(), 0.7F);
    const bool per_outer = uniform(generator, 0, 1) == 1;
    auto params = params_of(x, shape, format, per_outer, round % 2 ? 1e-20F : 1.0F);
    const RandomKey key = random_key({.seed = static_cast<uint64_t>(round)});
    const Quantized result = run(x, shape, format, params, key);

    int64_t saturated = 0, zeros = 0;
    for (int64_t i = 0; i < shape.elements(); ++i) {
      const float value = x[static_cast<size_t>(i)];
      const auto& own = params[per_outer ? static_cast<size_t>(i / (shape.channels * shape.inner)) : 0];
      const Quantizer quantizer = make_quantizer(format, own);
      const float r = quantize_value(quantizer, value, random_bits(key, logical_index(shape, i)));
      saturated += is_saturated(quantizer, steps(quantizer, value));
      zeros += dequantize_value(quantizer, r) == 0.0F;
      if (container(format) == Container::kFloat32) {
        float stored = 0.0F;
        std::memcpy(&stored, result.codes.data() + i * 4, 4);
        ASSERT_EQ(std::bit_cast<uint32_t>(stored), std::bit_cast<uint32_t>(dequantize_value(quantizer, r)))
            << to_string(format) << " element " << i;
      } else {
        const auto code = static_cast<int64_t>(r) + own.zero_code;
        ASSERT_EQ(integer_code(container(format), result.codes, i), code)
            << to_string(format) << " element " << i;
        ASSERT_GE(code, code_range(format).min);
        ASSERT_LE(code, code_range(format).max);
      }
    }
    ASSERT_EQ(result.statistics.count, shape.elements());
    ASSERT_EQ(result.statistics.saturated, saturated) << to_string(format);
    ASSERT_EQ(result.statistics.zeros, zeros) << to_string(format);
    Range range;
    measure_range(x.data(), shape, Granularity::kTensor, {&range, 1});
    ASSERT_EQ(result.statistics.range, range);
  }
}

TEST_P(QuantizeKernels, BFloat16InputGivesTheCodesOfItsFloatValue) {
  Generator generator(21);
  for (int round = 0; round < 200; ++round) {
    const Format format = make_format(generator);
    const TensorShape shape = make_shape(generator);
    auto x = make_data(generator, shape.elements(), 3.0F);
    std::vector<BFloat16> half;
    for (auto& value : x) {
      half.push_back(truncate(value));
      value = widen(half.back());
    }
    const auto params = params_of(x, shape, format, false, round % 2 ? 1e-20F : 1.0F);
    const RandomKey key{7, static_cast<uint32_t>(round)};
    const Quantized from_float = run(x, shape, format, params, key);
    const Quantized from_half = run(half, shape, format, params, key);
    ASSERT_EQ(from_float.codes, from_half.codes) << to_string(format);
    ASSERT_EQ(from_float.statistics.saturated, from_half.statistics.saturated);
    ASSERT_EQ(from_float.statistics.zeros, from_half.statistics.zeros);
    ASSERT_EQ(from_float.statistics.range, from_half.statistics.range);

    const Range float_mean = mean_sample_range(x.data(), shape),
                half_mean = mean_sample_range(half.data(), shape);
    ASSERT_EQ(float_mean, half_mean);
    ASSERT_EQ(abs_sum(x.data(), shape.elements()), abs_sum(half.data(), shape.elements()));
    ASSERT_EQ(quantized_abs_sum(x.data(), shape.elements(), 8, 0x1p-5F),
              quantized_abs_sum(half.data(), shape.elements(), 8, 0x1p-5F));
  }
}

TEST_P(QuantizeKernels, DequantisingFollowsTheDefinition) {
  Generator generator(22);
  for (int round = 0; round < 300; ++round) {
    Format format = make_format(generator);
    format.word_length = std::min(format.word_length, 16);
    const TensorShape shape = make_shape(generator);
    const auto x = make_data(generator, shape.elements(), 0.1F);
    const bool per_outer = round % 3 == 0;
    const auto params = params_of(x, shape, format, per_outer, 1e-20F);
    const Quantized result = run(x, shape, format, params, {1, 2});
    constexpr CodeType kTypes[] = {CodeType::kS8, CodeType::kU8, CodeType::kS16, CodeType::kU16};
    std::vector<float> back(x.size() + 1, 42.0F);
    dequantize(result.codes.data(), kTypes[static_cast<size_t>(container(format))], shape, params,
               back.data());
    for (int64_t i = 0; i < shape.elements(); ++i) {
      const auto& own = params[per_outer ? static_cast<size_t>(i / (shape.channels * shape.inner)) : 0];
      const auto r = static_cast<float>(integer_code(container(format), result.codes, i) - own.zero_code);
      ASSERT_EQ(back[static_cast<size_t>(i)], own.scale * r + own.offset);
    }
    ASSERT_EQ(back.back(), 42.0F);
  }
}

TEST_P(QuantizeKernels, QuantisingAgainChangesNothing) {
  Generator generator(23);
  for (int round = 0; round < 200; ++round) {
    Format format = make_format(generator);
    format.word_length = std::min(format.word_length, 16);
    // Steps that are no power of two put the grid values off by rounding, which stochastic rounding sees.
    const bool exact_steps = format.rule != ScaleRule::kSymmetric && format.rule != ScaleRule::kAffine;
    if (!exact_steps) format.rounding = Rounding::kNearestEven;
    const TensorShape shape = make_shape(generator);
    const auto x = make_data(generator, shape.elements(), 1.0F);
    const auto params = params_of(x, shape, format, true, 1e-20F);
    constexpr CodeType kTypes[] = {CodeType::kS8, CodeType::kU8, CodeType::kS16, CodeType::kU16};
    const Quantized once = run(x, shape, format, params, {1, 2});
    std::vector<float> back(x.size());
    dequantize(once.codes.data(), kTypes[static_cast<size_t>(container(format))], shape, params, back.data());
    const Quantized twice = run(back, shape, format, params, {3, 4});
    ASSERT_EQ(once.codes, twice.codes) << to_string(format);
    ASSERT_EQ(twice.statistics.saturated, 0);
  }
}

TEST_P(QuantizeKernels, OneScalePerSampleIsEverySampleOnItsOwn) {
  Generator generator(24);
  const TensorShape shape{.outer = 7, .channels = 19, .inner = 23};
  const TensorShape slice{.outer = 1, .channels = 19, .inner = 23};
  const auto x = make_data(generator, shape.elements(), 2.0F);
  for (const ScaleRule rule : {ScaleRule::kPowerOfTwo, ScaleRule::kSymmetric, ScaleRule::kAffine}) {
    const Format format{.rule = rule, .word_length = 8};
    const auto params = params_of(x, shape, format, true, 1.0F);
    const Quantized whole = run(x, shape, format, params, {});
    int64_t zeros = 0;
    for (int64_t sample = 0; sample < shape.outer; ++sample) {
      const auto begin = x.begin() + sample * slice.elements();
      const std::vector<float> own(begin, begin + slice.elements());
      const auto own_params = params_of(own, slice, format, false, 1.0F);
      ASSERT_EQ(own_params[0], params[static_cast<size_t>(sample)]);
      const Quantized part = run(own, slice, format, own_params, {});
      zeros += part.statistics.zeros;
      ASSERT_EQ(std::memcmp(part.codes.data(), whole.codes.data() + sample * slice.elements(),
                            static_cast<size_t>(slice.elements())),
                0);
    }
    EXPECT_EQ(whole.statistics.zeros, zeros);
  }
}

TEST_P(QuantizeKernels, RandomBitsBelongToTheLogicalIndex) {
  Generator generator(25);
  for (const int64_t channels : {1, 3, 16, 40, 2500}) {
    const TensorShape planar{.outer = 3, .channels = channels, .inner = 35, .order = MemoryOrder::kPlanar};
    TensorShape interleaved = planar;
    interleaved.order = MemoryOrder::kInterleaved;
    const auto x = make_data(generator, planar.elements(), 1.0F);
    std::vector<float> permuted(x.size());
    for (int64_t i = 0; i < planar.elements(); ++i) {
      permuted[static_cast<size_t>(i)] = x[logical_index(interleaved, i)];
    }
    const Format format{
        .rule = ScaleRule::kFixed, .word_length = 8, .fraction_length = 4, .rounding = Rounding::kStochastic};
    const std::vector<QuantParams> params{choose_params(format, {})};
    const Quantized first = run(x, planar, format, params, {11, 12});
    const Quantized second = run(permuted, interleaved, format, params, {11, 12});
    for (int64_t i = 0; i < planar.elements(); ++i) {
      ASSERT_EQ(second.codes[static_cast<size_t>(i)], first.codes[logical_index(interleaved, i)]);
    }
  }
}

// The fast path of 8 bits scales steps by 2^22; steps near the ends of float32 leave it.
TEST_P(QuantizeKernels, ExtremeStepsFollowTheDefinition) {
  Generator generator(31);
  const TensorShape shape{.outer = 1, .channels = 3, .inner = 67};
  for (const ScaleRule rule : {ScaleRule::kPowerOfTwo, ScaleRule::kSymmetric}) {
    for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic}) {
      const Format format{.rule = rule, .word_length = 8, .rounding = rounding};
      for (const int exponent : {-126, -125, -110, -100, -99, 99, 100, 105, 119, 126}) {
        const float scale = std::ldexp(rule == ScaleRule::kPowerOfTwo ? 1.0F : 1.3F, exponent);
        auto x = make_data(generator, shape.elements(), 1.0F);
        for (auto& value : x)
          value = static_cast<float>(static_cast<double>(value) * static_cast<double>(scale));
        for (auto& value : x) value = std::isfinite(value) ? value : 0.0F;
        const Quantized result = run(x, shape, format, {{.scale = scale}}, {3, 9});
        const Quantizer quantizer = make_quantizer(format, {.scale = scale});
        int64_t saturated = 0;
        for (int64_t i = 0; i < shape.elements(); ++i) {
          const float value = x[static_cast<size_t>(i)];
          const float r = quantize_value(quantizer, value, random_bits({3, 9}, logical_index(shape, i)));
          ASSERT_EQ(integer_code(Container::kInt8, result.codes, i), static_cast<int64_t>(r)) << scale;
          saturated += is_saturated(quantizer, steps(quantizer, value));
        }
        ASSERT_EQ(result.statistics.saturated, saturated) << scale;
      }
    }
  }
}

TEST_P(QuantizeKernels, LogicalIndicesBeyond32BitsCount) {
  Generator generator(32);
  const auto x = make_data(generator, 100, 1.0F);
  std::vector<uint32_t> offsets(100 + kSumLanes);
  for (auto& offset : offsets) offset = static_cast<uint32_t>(uniform(generator, 0, 1 << 20));
  const Format format{.rule = ScaleRule::kFixed, .word_length = 8, .rounding = Rounding::kStochastic};
  const Quantizer quantizer = make_quantizer(format, {.scale = 0.125F});
  const auto& kernels = GetParam() == Isa::kScalar                                ? scalar::kQuantize
                        : GetParam() == Isa::kAvx2 || GetParam() == Isa::kAvxVnni ? avx2::kQuantize
                                                                                  : avx512vnni::kQuantize;
  for (const uint64_t base : {uint64_t{0}, uint64_t{1} << 32, (uint64_t{7} << 32) + 123}) {
    std::vector<int8_t> codes(x.size());
    BlockStatistics statistics;
    const QuantizeBlock block{.x = x.data(),
                              .codes = codes.data(),
                              .count = 100,
                              .key = {1, 2},
                              .index_base = base,
                              .index_offsets = offsets.data()};
    kernels.quantize[0](quantizer, Container::kInt8, block, statistics);
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(codes[i], quantize_value(quantizer, x[i], random_bits({1, 2}, base + offsets[i])));
    }
  }
}

#if defined(__SSE__)
TEST_P(QuantizeKernels, FlushedDenormalsOfTheCallerDoNotMatter) {
  Generator generator(33);
  const TensorShape shape{.outer = 2, .channels = 5, .inner = 50};
  std::vector<float> x;
  for (int64_t i = 0; i < shape.elements(); ++i) x.push_back(std::ldexp(static_cast<float>(i % 17), -149));
  const Format format{.rule = ScaleRule::kPowerOfTwo, .word_length = 8};
  const std::vector<QuantParams> params{{.scale = 0x1p-126F}};
  const auto all = [&] {
    Range range;
    measure_range(x.data(), shape, Granularity::kTensor, {&range, 1});
    return std::tuple(run(x, shape, format, params, {}).statistics.zeros, range.min, range.max,
                      abs_sum(x.data(), shape.elements()), mean_sample_range(x.data(), shape).max);
  };
  const auto expected = all();
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // flush to zero, denormals are zero
  const auto flushed = all();
  const unsigned during = _mm_getcsr();
  _mm_setcsr(before);
  EXPECT_EQ(flushed, expected);
  EXPECT_EQ(during & 0x8040U, 0x8040U);  // left as it was
  EXPECT_GT(std::get<3>(expected), 0.0);
}
#endif

TEST_P(QuantizeKernels, ThreadsDoNotMatter) {
  Generator generator(26);
  const TensorShape shape{.outer = 5, .channels = 48, .inner = 2111};
  const auto x = make_data(generator, shape.elements(), 1.0F);
  const Format format{.rule = ScaleRule::kSymmetric, .word_length = 8, .rounding = Rounding::kStochastic};
  const auto params = params_of(x, shape, format, false, 1e-20F);
  const int threads = num_threads();
  std::vector<Quantized> results;
  std::vector<double> sums;
  std::vector<Range> means;
  for (const int count : {1, 2, 3}) {
    set_num_threads(count);
    results.push_back(run(x, shape, format, params, {5, 6}));
    sums.push_back(abs_sum(x.data(), shape.elements()));
    means.push_back(mean_sample_range(x.data(), shape));
  }
  set_num_threads(threads);
  for (size_t i = 1; i < results.size(); ++i) {
    EXPECT_EQ(results[i].codes, results[0].codes);
    EXPECT_EQ(results[i].statistics.saturated, results[0].statistics.saturated);
    EXPECT_EQ(results[i].statistics.zeros, results[0].statistics.zeros);
    EXPECT_EQ(results[i].statistics.range, results[0].statistics.range);
    EXPECT_EQ(sums[i], sums[0]);
    EXPECT_EQ(means[i], means[0]);
  }
}

TEST_P(QuantizeKernels, SumsFollowTheirPartition) {
  Generator generator(27);
  for (int round = 0; round < 40; ++round) {
    const int64_t count = uniform(generator, 0, 9000);
    const auto x = make_data(generator, count, 1.0F);
    double expected = 0.0;
    for (int64_t begin = 0; begin < count; begin += 2048) {
      double lanes[16] = {};
      for (int64_t i = begin; i < std::min(count, begin + 2048); ++i) {
        lanes[(i - begin) % 16] += std::fabs(x[static_cast<size_t>(i)]);
      }
      for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
      }
      expected += lanes[0];
    }
    ASSERT_EQ(abs_sum(x.data(), count), expected);

    const Grid grids[] = {{8, 0x1p-5F}, {16, 1e-4F}, {24, 0x1p-21F}};
    const AbsSums sums = abs_sums(x.data(), count, grids);
    ASSERT_EQ(sums.data, expected);
    for (size_t g = 0; g < 3; ++g) {
      const Format format{.rule = ScaleRule::kPowerOfTwo, .word_length = grids[g].word_length};
      const Quantizer quantizer = make_quantizer(format, {.scale = grids[g].step});
      int64_t steps = 0;
      for (const float value : x)
        steps += std::abs(static_cast<int64_t>(quantize_value(quantizer, value, 0)));
      ASSERT_EQ(sums.grids[g], static_cast<double>(steps) * static_cast<double>(grids[g].step));
      ASSERT_EQ(quantized_abs_sum(x.data(), count, grids[g].word_length, grids[g].step), sums.grids[g]);
    }
  }
}

TEST_P(QuantizeKernels, LargestCodesDoNotOverflowTheirSum) {
  const std::vector<float> x(4096 + 17, -3e38F);
  const auto count = static_cast<double>(x.size());
  for (const int word_length : {2, 8, 16, 24, 31, 32}) {
    EXPECT_EQ(quantized_abs_sum(x.data(), static_cast<int64_t>(x.size()), word_length, 1.0F),
              count * std::ldexp(1.0, word_length - 1));
  }
}

TEST_P(QuantizeKernels, OnePassGivesTheSumsAndTheCodesOfTwo) {
  Generator generator(28);
  const TensorShape shape{.outer = 3, .channels = 33, .inner = 101};
  const auto x = make_data(generator, shape.elements(), 1.0F);
  const Format format{.rule = ScaleRule::kPowerOfTwo, .word_length = 8};
  const auto params = params_of(x, shape, format, false, 1e-20F);
  const Grid grids[] = {{8, 0x1p-4F}, {16, 0x1p-12F}};
  std::vector<char> codes(x.size());
  AbsSums sums;
  const auto statistics =
      quantize_with_abs_sums(x.data(), shape, format, params, {}, codes.data(), grids, sums);
  Quantized expected = run(x, shape, format, params, {});
  expected.codes.pop_back();
  EXPECT_EQ(codes, expected.codes);
  EXPECT_EQ(statistics.saturated, expected.statistics.saturated);
  EXPECT_EQ(statistics.zeros, expected.statistics.zeros);
  const AbsSums separate = abs_sums(x.data(), shape.elements(), grids);
  EXPECT_EQ(sums.data, separate.data);
  EXPECT_EQ(sums.grids, separate.grids);
}

TEST_P(QuantizeKernels, WideCodesMayTakeThePlaceOfTheData) {
  Generator generator(29);
  const TensorShape shape{.outer = 2, .channels = 31, .inner = 77};
  auto x = make_data(generator, shape.elements(), 1.0F);
  const Format format{.rule = ScaleRule::kPowerOfTwo, .word_length = 24, .rounding = Rounding::kStochastic};
  const auto params = params_of(x, shape, format, false, 1e-20F);
  const Quantized apart = run(x, shape, format, params, {1, 1});
  const auto statistics = quantize(x.data(), shape, format, params, {1, 1}, x.data());
  EXPECT_EQ(std::memcmp(x.data(), apart.codes.data(), x.size() * sizeof(float)), 0);
  EXPECT_EQ(statistics.saturated, apart.statistics.saturated);
  EXPECT_GT(statistics.saturated, 0);
}

TEST_P(QuantizeKernels, NotANumberAndInfinityShow) {
  Generator generator(30);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Format format{.rule = ScaleRule::kPowerOfTwo, .word_length = 8};
  for (const float poison : {kNan, -kNan, kInfinity, -kInfinity}) {
    for (const int64_t inner : {1, 15, 16, 17, 40, 5000}) {
      const TensorShape shape{.outer = 2, .channels = 1, .inner = inner};
      auto x = make_data(generator, shape.elements(), 1.0F);
      const int64_t at = inner + uniform(generator, 0, inner - 1);  // in the second sample
      x[static_cast<size_t>(at)] = poison;
      std::vector<Range> ranges(2);
      measure_range(x.data(), shape, Granularity::kSample, ranges);
      EXPECT_TRUE(ranges[0].is_finite());
      EXPECT_TRUE(std::isnan(ranges[1].min) && std::isnan(ranges[1].max));
      EXPECT_FALSE(mean_sample_range(x.data(), shape).is_finite());
      const Quantized result = run(x, shape, format, {{.scale = 0.5F}}, {});
      EXPECT_FALSE(result.statistics.range.is_finite());
      const int expected = poison == kInfinity ? 127 : -128;
      EXPECT_EQ(result.codes[static_cast<size_t>(at)], expected);
    }
  }
}

TEST_P(QuantizeKernels, ZerosOfBothSignsGiveTheSameRange) {
  for (const float zero : {0.0F, -0.0F}) {
    const std::vector<float> x(37, zero);
    const TensorShape shape{.outer = 1, .channels = 37, .inner = 1};
    Range range;
    measure_range(x.data(), shape, Granularity::kTensor, {&range, 1});
    EXPECT_FALSE(std::signbit(range.min) || std::signbit(range.max));
    const Format affine{.rule = ScaleRule::kAffine, .word_length = 8};
    const Quantized result = run(x, shape, affine, {choose_params(affine, range)}, {});
    EXPECT_EQ(result.statistics.zeros, 37);
  }
}

TEST_P(QuantizeKernels, RangesAreTheExtremes) {
  Generator generator(34);
  for (int round = 0; round < 100; ++round) {
    TensorShape shape = make_shape(generator);
    if (round % 10 == 0) shape.inner *= 100;
    const auto x = make_data(generator, shape.elements(), 1.0F);
    std::vector<Range> expected;
    double low = 0.0, high = 0.0;
    for (int64_t outer = 0; outer < shape.outer; ++outer) {
      const auto begin = x.begin() + outer * shape.channels * shape.inner;
      const auto [min, max] = std::minmax_element(begin, begin + shape.channels * shape.inner);
      expected.push_back({*min, *max});
      low += static_cast<double>(*min);
      high += static_cast<double>(*max);
    }
    std::vector<Range> ranges(expected.size());
    measure_range(x.data(), shape, Granularity::kChannel, ranges);
    ASSERT_EQ(ranges, expected);
    Range whole;
    measure_range(x.data(), shape, Granularity::kTensor, {&whole, 1});
    const auto [min, max] = std::minmax_element(x.begin(), x.end());
    ASSERT_EQ(whole, (Range{*min, *max}));
    const auto samples = static_cast<double>(shape.outer);
    ASSERT_EQ(mean_sample_range(x.data(), shape),
              (Range{static_cast<float>(low / samples), static_cast<float>(high / samples)}));
  }
}

TEST_P(QuantizeKernels, EmptyTensorsAreFine) {
  const TensorShape shape{.outer = 0, .channels = 3, .inner = 5};
  const Format format{.rule = ScaleRule::kPowerOfTwo, .word_length = 8, .rounding = Rounding::kStochastic};
  const Quantized result = run(std::vector<float>{}, shape, format, {QuantParams{}}, {});
  EXPECT_EQ(result.statistics.count, 0);
  EXPECT_EQ(result.statistics.range, Range{});
  EXPECT_EQ(abs_sum(static_cast<const float*>(nullptr), 0), 0.0);
}

TEST(Quantize, WrongArgumentsAreNamed) {
  const std::vector<float> x(12);
  std::vector<int8_t> codes(12);
  const TensorShape shape{.outer = 3, .channels = 4, .inner = 1};
  const Format format{.rule = ScaleRule::kPowerOfTwo, .word_length = 8};
  const std::vector<QuantParams> two(2);
  EXPECT_THROW(quantize(x.data(), shape, format, two, {}, codes.data()), Error);
  EXPECT_THROW(quantize(x.data(), shape, Format{}, {two.data(), 1}, {}, codes.data()), Error);
  const std::vector<QuantParams> zero_scale{{.scale = 0.0F}};
  EXPECT_THROW(quantize(x.data(), shape, format, zero_scale, {}, codes.data()), Error);
  std::vector<Range> ranges(2);
  EXPECT_THROW(measure_range(x.data(), shape, Granularity::kSample, ranges), Error);
  EXPECT_THROW(quantized_abs_sum(x.data(), 12, 1, 1.0F), Error);
  EXPECT_THROW(quantized_abs_sum(x.data(), 12, 8, 0.0F), Error);
}

}  // namespace
}  // namespace bitdial::kernels
