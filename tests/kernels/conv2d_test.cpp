// Every instruction set of this CPU against the scalar reference, bit by bit, on random problems. Extreme
// codes in every operand make sure that an overflow cannot hide.
#include "bitdial/kernels/conv2d.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/problem.h"

namespace bitdial::kernels {
namespace {

enum class Direction { kForward, kBackwardData, kBackwardWeight };

const char* name_of(Direction direction) {
  return direction == Direction::kForward ? "fwd" : direction == Direction::kBackwardData ? "bwd_d" : "bwd_w";
}

using Random = std::mt19937_64;

int64_t pick(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

bool chance(Random& random, int percent) { return pick(random, 1, 100) <= percent; }

template <class T>
T one_of(Random& random, std::initializer_list<T> values) {
  return values.begin()[pick(random, 0, static_cast<int64_t>(values.size()) - 1)];
}

struct Codes {
  std::vector<uint8_t> bytes;
  CodeType type = CodeType::kS8;
  std::vector<QuantParams> params;

  Operand operand() const { return {bytes.data(), type, params}; }
};

std::pair<int64_t, int64_t> limits(CodeType type) {
  switch (type) {
    case CodeType::kS8:
      return {-128, 127};
    case CodeType::kU8:
      return {0, 255};
    case CodeType::kS16:
      return {-32768, 32767};
    case CodeType::kU16:
      return {0, 65535};
  }
  return {0, 0};
}

/// Uniform codes, a constant extreme, a mixture of the extremes, or mostly zeros.
Codes random_codes(Random& random, int64_t count, CodeType type) {
  const auto [low, high] = limits(type);
  const int64_t kind = pick(random, 0, 5);
  const int64_t constant = one_of(random, {low, high, low + 1, high - 1});
  const int64_t size = type == CodeType::kS8 || type == CodeType::kU8 ? 1 : 2;
  Codes codes;
  codes.type = type;
  codes.bytes.resize(static_cast<size_t>(count * size));
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t draw = random();
    int64_t code = low + static_cast<int64_t>(draw % static_cast<uint64_t>(high - low + 1));
    if (kind == 0) code = constant;
    if (kind == 1) code = (draw & 1U) != 0 ? low : high;
    if (kind == 2 && draw % 4 != 0) code = std::clamp<int64_t>(0, low, high);
    std::memcpy(codes.bytes.data() + i * size, &code, static_cast<size_t>(size));
  }
  return codes;
}

enum class Parameters { kPlain, kZeroCode, kOffset };

void choose_params(Random& random, Codes& codes, Parameters kind, int64_t count) {
  const auto [low, high] = limits(codes.type);
  for (int64_t i = 0; i < count; ++i) {
    QuantParams params;
    params.scale = std::exp2(static_cast<float>(pick(random, -12, 2))) *
                   (chance(random, 50) ? 1.0F : 1.0F + 1e-3F * static_cast<float>(pick(random, 1, 900)));
    if (kind == Parameters::kZeroCode) params.zero_code = static_cast<int32_t>(pick(random, low, high));
    if (kind == Parameters::kOffset) params.offset = 0.037F * static_cast<float>(pick(random, -50, 50));
    codes.params.push_back(params);
  }
}

struct Problem {
  ConvShape shape;
  Direction direction = Direction::kForward;
  OutputType output = OutputType::kFloat32;
  Codes a, b;
  std::vector<float> bias;

  std::string describe() const {
    return std::string(name_of(direction)) + " " + std::string(to_string(a.type)) +
           std::string(to_string(b.type)) + " " + to_string(shape) +
           (output == OutputType::kBFloat16 ? " bf16" : " f32");
  }

  std::vector<uint32_t> run(Isa isa) const {
    const ScopedIsa scope(isa);
    const int64_t count = direction == Direction::kForward        ? shape.output_elements()
                          : direction == Direction::kBackwardData ? shape.input_elements()
                                                                  : shape.weight_elements();
    std::vector<uint32_t> result(static_cast<size_t>(count), 0xAAAAAAAAU);
    switch (direction) {
      case Direction::kForward:
        conv2d_forward(shape, a.operand(), b.operand(), bias.empty() ? nullptr : bias.data(),
                       {result.data(), output});
        break;
      case Direction::kBackwardData:
        conv2d_backward_data(shape, a.operand(), b.operand(), {result.data(), output});
        break;
      case Direction::kBackwardWeight:
        conv2d_backward_weight(shape, a.operand(), b.operand(), reinterpret_cast<float*>(result.data()));
        break;
    }
    return result;
  }
};

ConvShape random_shape(Random& random, int64_t largest_macs) {
  for (;;) {
    ConvShape s;
    s.batch = chance(random, 10) ? pick(random, 1, 130) : pick(random, 1, 9);
    s.groups = chance(random, 80) ? 1 : pick(random, 2, 5);
    const auto channels = [&] {
      return chance(random, 30) ? one_of<int64_t>(random, {3, 16, 32, 48, 64, 80, 128}) : pick(random, 1, 20);
    };
    s.in_channels = s.groups * channels();
    s.out_channels = s.groups * channels();
    if (s.groups > 1 && chance(random, 30)) s.in_channels = s.out_channels = s.groups;
    s.in_height = pick(random, 1, 9);
    s.in_width = chance(random, 60) ? s.in_height : pick(random, 1, 11);
    s.kernel_height = one_of<int64_t>(random, {1, 1, 2, 3, 3, 3, 5, 7});
    s.kernel_width = chance(random, 70) ? s.kernel_height : pick(random, 1, 5);
    s.stride_height = one_of<int64_t>(random, {1, 1, 1, 2, 2, 3, 4});
    s.stride_width = chance(random, 70) ? s.stride_height : pick(random, 1, 3);
    s.dilation_height = one_of<int64_t>(random, {1, 1, 1, 1, 2, 3});
    s.dilation_width = chance(random, 80) ? s.dilation_height : pick(random, 1, 3);
    s.padding_height = chance(random, 60) ? s.kernel_height / 2 : pick(random, 0, 4);
    s.padding_width = chance(random, 60) ? s.kernel_width / 2 : pick(random, 0, 4);
    const bool fits = s.in_height + 2 * s.padding_height >= s.dilation_height * (s.kernel_height - 1) + 1 &&
                      s.in_width + 2 * s.padding_width >= s.dilation_width * (s.kernel_width - 1) + 1;
    if (fits && s.macs() <= largest_macs) return s;
  }
}

CodeType random_type(Random& random) {
  return one_of(random, {CodeType::kS8, CodeType::kS8, CodeType::kU8, CodeType::kS16, CodeType::kU16});
}

Problem random_problem(uint64_t seed, int64_t largest_macs) {
  Random random(seed);
  Problem problem;
  problem.direction =
      one_of(random, {Direction::kForward, Direction::kBackwardData, Direction::kBackwardWeight});
  problem.output = chance(random, 50) ? OutputType::kFloat32 : OutputType::kBFloat16;
  const ConvShape s = problem.shape = random_shape(random, largest_macs);
  const bool forward = problem.direction == Direction::kForward;
  const bool weight = problem.direction == Direction::kBackwardWeight;
  problem.a = random_codes(
      random, problem.direction == Direction::kBackwardData ? s.output_elements() : s.input_elements(),
      random_type(random));
  problem.b = random_codes(random, weight ? s.output_elements() : s.weight_elements(), random_type(random));
  const auto kind = [&] {
    return chance(random, 60)   ? Parameters::kPlain
           : chance(random, 60) ? Parameters::kZeroCode
                                : Parameters::kOffset;
  };
  choose_params(random, problem.a, kind(), !weight && chance(random, 20) ? s.batch : 1);
  choose_params(random, problem.b, kind(), forward && chance(random, 30) ? s.out_channels : 1);
  if (forward && chance(random, 50)) {
    for (int64_t k = 0; k < s.out_channels; ++k)
      problem.bias.push_back(0.01F * static_cast<float>(pick(random, -99, 99)));
  }
  return problem;
}

std::vector<Isa> vector_isas() {
  std::vector<Isa> isas(available_isas().begin(), available_isas().end());
  std::erase(isas, Isa::kScalar);
  return isas;
}

void expect_same(const Problem& problem, const std::vector<uint32_t>& expected,
                 const std::vector<uint32_t>& actual, const std::string& what) {
  if (expected == actual) return;
  size_t wrong = 0;
  size_t first = expected.size();
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == actual[i]) continue;
    first = std::min(first, i);
    ++wrong;
  }
  FAIL() << problem.describe() << ", " << what << ": " << wrong << " of " << expected.size()
         << " words differ, the first at " << first;
}

/// Most problems run on one thread, which is faster for small ones, some on two.
void fuzz(uint64_t first_seed, uint64_t count, int64_t largest_macs) {
  const int threads = num_threads();
  for (uint64_t seed = first_seed; seed < first_seed + count; ++seed) {
    const Problem problem = random_problem(seed, largest_macs);
    set_num_threads(seed % 8 == 0 ? 2 : 1);
    const auto expected = problem.run(Isa::kScalar);
    for (const Isa isa : vector_isas()) {
      expect_same(problem, expected, problem.run(isa),
                  std::string(to_string(isa)) + ", seed " + std::to_string(seed));
      if (testing::Test::HasFatalFailure()) break;
    }
    set_num_threads(threads);
    if (testing::Test::HasFatalFailure()) return;
  }
}

// Four tests of the same kind, so that a parallel test run spreads them.
TEST(Conv2d, EveryIsaMatchesTheReferenceOnSmallProblems) { fuzz(0, 4000, 20'000); }
TEST(Conv2d, EveryIsaMatchesTheReferenceOnOtherSmallProblems) { fuzz(100'000, 4000, 20'000); }
TEST(Conv2d, EveryIsaMatchesTheReferenceOnMiddlingProblems) { fuzz(200'000, 2000, 200'000); }
TEST(Conv2d, EveryIsaMatchesTheReferenceOnLargerProblems) { fuzz(300'000, 250, 4'000'000); }

Problem make_problem(Direction direction, const std::string& text, CodeType a, CodeType b, uint64_t seed) {
  Random random(seed);
  Problem problem;
  problem.direction = direction;
  problem.output = OutputType::kBFloat16;
  problem.shape = parse_problem(text);
  const ConvShape& s = problem.shape;
  problem.a = random_codes(
      random, direction == Direction::kBackwardData ? s.output_elements() : s.input_elements(), a);
  problem.b = random_codes(
      random, direction == Direction::kBackwardWeight ? s.output_elements() : s.weight_elements(), b);
  problem.a.params = {QuantParams{0.01F, 0, 0.0F}};
  problem.b.params = {QuantParams{0.02F, 0, 0.0F}};
  return problem;
}

void fill(Codes& codes, int64_t code) {
  const size_t size = codes.type == CodeType::kS8 || codes.type == CodeType::kU8 ? 1 : 2;
  for (size_t i = 0; i < codes.bytes.size(); i += size) std::memcpy(codes.bytes.data() + i, &code, size);
}

// 140000 products of -128 * -128 exceed int32, as do far fewer of 16 bits.
TEST(Conv2d, LongReductionsAreExact) {
  const CodeType types[] = {CodeType::kS8, CodeType::kU8, CodeType::kS16, CodeType::kU16};
  const std::pair<Direction, std::string> problems[] = {
      {Direction::kForward, "mb1ic140000ih1oc2kh1"},
      {Direction::kForward, "mb1ic23001ih3iw2oc1kh3kw2"},
      {Direction::kBackwardData, "mb1ic2ih1oc140000kh1"},
      {Direction::kBackwardWeight, "mb65ic2ih48oc1kh1"},
      {Direction::kBackwardWeight, "mb140000ic1ih1oc1kh1"},
  };
  for (const auto& [direction, text] : problems) {
    for (const CodeType a : types) {
      for (const CodeType b : types) {
        Problem problem = make_problem(direction, text, a, b, 1);
        fill(problem.a, limits(a).first != 0 ? limits(a).first : limits(a).second);
        fill(problem.b, limits(b).first != 0 ? limits(b).first : limits(b).second);
        const auto expected = problem.run(Isa::kScalar);
        for (const Isa isa : vector_isas()) {
          expect_same(problem, expected, problem.run(isa), std::string(to_string(isa)));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Narrow panels load whole runs of pixels, with padding beside the image where that completes them: widths
// that are and that are not multiples of a run, strides, and padding that stands for codes other than 0.
TEST(Conv2d, RunsOfPixelsMatchTheReference) {
  for (const std::string text :
       {"mb3ic16ih16oc16kh3ph1", "mb2ic32ih16oc32kh3ph1", "mb2ic16ih32oc32kh3sh2ph1", "mb2ic3ih16oc16kh3ph1",
        "mb2ic24ih16oc16kh5ph2", "mb2ic16ih16oc32kh3ph2dh1", "mb1ic20ih24iw20oc30kh3ph1",
        "mb2ic16ih16oc16kh1", "mb2ic16ih17oc16kh3ph1", "mb2ic32ih16oc80kh1", "mb66ic16ih8oc16kh3ph1"}) {
    for (const Direction direction :
         {Direction::kForward, Direction::kBackwardData, Direction::kBackwardWeight}) {
      for (const CodeType type : {CodeType::kS8, CodeType::kU8, CodeType::kS16}) {
        Problem problem = make_problem(direction, text, type, CodeType::kS8, 13);
        for (const int64_t zero : {int64_t{0}, limits(type).second, limits(type).first, int64_t{300}}) {
          problem.a.params[0].zero_code = static_cast<int32_t>(zero);
          const auto expected = problem.run(Isa::kScalar);
          for (const Isa isa : vector_isas()) {
            expect_same(problem, expected, problem.run(isa), std::string(to_string(isa)));
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(Conv2d, ThreadsDoNotChangeResults) {
  const int threads = num_threads();
  // The last three cut weight gradients into groups of channels, with one pass over the pixels or several.
  for (const std::string text :
       {"mb9ic20ih8oc70kh3ph1", "mb70ic17ih6oc33kh3ph1sh2", "mb2ic64ih20oc130kh3ph1dh1",
        "mb4ic150ih4oc20kh3ph1", "mb64ic129ih17oc70kh1", "mb64ic129ih9oc300kh1"}) {
    for (const Direction direction :
         {Direction::kForward, Direction::kBackwardData, Direction::kBackwardWeight}) {
      for (const CodeType type : {CodeType::kS8, CodeType::kS16}) {
        const Problem problem = make_problem(direction, text, CodeType::kS8, type, 7);
        for (const Isa isa : vector_isas()) {
          set_num_threads(1);
          const auto alone = problem.run(isa);
          for (const int count : {2, 3, 5}) {
            set_num_threads(count);
            expect_same(problem, alone, problem.run(isa), std::to_string(count) + " threads");
          }
          set_num_threads(threads);
        }
      }
    }
  }
}

// A NaN in the bias must stay one, whatever its payload.
TEST(Conv2d, NanInTheBiasReachesTheOutput) {
  Problem problem = make_problem(Direction::kForward, "mb2ic16ih4oc70kh1", CodeType::kS8, CodeType::kS8, 9);
  problem.bias.assign(70, 1.0F);
  for (const uint32_t bits : {0x7FFFFFFFU, 0xFFFFFFFFU, 0x7FC00000U, 0x7F800000U}) {
    problem.bias[bits % 67] = std::bit_cast<float>(bits);
  }
  for (const OutputType output : {OutputType::kFloat32, OutputType::kBFloat16}) {
    problem.output = output;
    const auto expected = problem.run(Isa::kScalar);
    for (const Isa isa : vector_isas())
      expect_same(problem, expected, problem.run(isa), std::string(to_string(isa)));
  }
}

TEST(Conv2d, ImpossibleArgumentsAreNamed) {
  Problem problem = make_problem(Direction::kForward, "mb2ic4ih5oc6kh3", CodeType::kS8, CodeType::kS8, 3);
  problem.b.params.resize(4);
  try {
    problem.run(Isa::kScalar);
    FAIL() << "4 scales for 6 channels were accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "[conv2d_forward] weight has 4 scales, expected 1 or 6");
  }
  EXPECT_THROW(check(ConvShape{.in_channels = 3, .groups = 2}), Error);
  EXPECT_THROW(check(ConvShape{.kernel_height = 3}), Error);
  EXPECT_THROW(check(ConvShape{.batch = 0}), Error);
  EXPECT_THROW(check(ConvShape{.padding_width = -1}), Error);
}

TEST(Conv2d, OutputsThatNoTapReachesAreZero) {
  const Problem problem =
      make_problem(Direction::kBackwardData, "mb1ic3ih7oc4kh1sh3", CodeType::kS8, CodeType::kS8, 5);
  for (const Isa isa : available_isas()) {
    const auto result = problem.run(isa);
    const auto* values = reinterpret_cast<const uint16_t*>(result.data());
    for (int64_t i = 0; i < problem.shape.input_elements(); ++i) {
      const int64_t h = i / 21;
      const int64_t w = i / 3 % 7;
      if (h % 3 == 0 && w % 3 == 0) continue;
      EXPECT_EQ(values[i], 0) << to_string(isa) << " " << i;
    }
  }
}

TEST(Problem, StringsRoundTrip) {
  const ConvShape s = parse_problem("mb64ic64ih32oc64kh3sh1ph1");
  EXPECT_EQ(s, (ConvShape{64, 64, 32, 32, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(to_string(s), "mb64ic64ih32oc64oh32kh3ph1");
  Random random(11);
  for (int i = 0; i < 500; ++i) {
    const ConvShape shape = random_shape(random, 1 << 20);
    EXPECT_EQ(parse_problem(to_string(shape)), shape) << to_string(shape);
  }
  EXPECT_EQ(parse_problem("ic3ih8iw9oc4oh4ow9kh3kw1sh2sw1ph1pw0dh0n\"first\"").out_height(), 4);
  EXPECT_EQ(parse_problem("ic3ih8oc4kh3").batch, 2);
}

TEST(Problem, UnreadableStringsAreNamed) {
  for (const char* text : {"mb64ic64", "ic3ih8oc4kh3x", "ic3ih8oc4khsh1", "ic3ih8oc4kh3kh3",
                           "ic3ih8oc4oh9kh3", "ic3ih2oc4kh3"}) {
    EXPECT_THROW(parse_problem(text), Error) << text;
  }
}

TEST(Isa, NamesRoundTripAndUnavailableOnesFail) {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512Vnni, Isa::kAmx}) {
    EXPECT_EQ(parse_isa(to_string(isa)), isa);
    if (is_available(isa)) continue;
    EXPECT_THROW(ScopedIsa{isa}, Error);
  }
  EXPECT_THROW(parse_isa("sse9"), Error);
  EXPECT_EQ(available_isas().front(), Isa::kScalar);
  const Isa before = active_isa();
  {
    const ScopedIsa scope(Isa::kScalar);
    EXPECT_EQ(active_isa(), Isa::kScalar);
  }
  EXPECT_EQ(active_isa(), before);
}

}  // namespace
}  // namespace bitdial::kernels
