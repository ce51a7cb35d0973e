// Output::sums against float64 sums of the stored values, on every instruction set of this CPU.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/problem.h"
#include "random_problem.h"

namespace bitdial::kernels::testing_support {
namespace {

struct Sums {
  std::vector<double> sum, squares;
  bool operator==(const Sums&) const = default;
};

/// A forward convolution with channel sums.
struct Case {
  ConvShape shape;
  Codes x, w;
  std::vector<float> bias, shift;
  OutputType type = OutputType::kBFloat16;

  Sums run(std::vector<uint32_t>& storage) const {
    const auto channels = static_cast<size_t>(shape.out_channels);
    Sums sums{std::vector<double>(channels, 7.0), std::vector<double>(channels, 7.0)};
    const ChannelSums request{shift.empty() ? nullptr : shift.data(), sums.sum.data(), sums.squares.data()};
    storage.assign(static_cast<size_t>(shape.output_elements()), 0);
    conv2d_forward(shape, x.operand(), w.operand(), bias.empty() ? nullptr : bias.data(),
                   {storage.data(), type, &request});
    return sums;
  }

  float stored(const std::vector<uint32_t>& storage, int64_t i) const {
    if (type == OutputType::kFloat32) return std::bit_cast<float>(storage[static_cast<size_t>(i)]);
    const auto* halves = reinterpret_cast<const uint16_t*>(storage.data());
    return std::bit_cast<float>(static_cast<uint32_t>(halves[i]) << 16);
  }
};

Case random_case(Random& random, const ConvShape& shape, bool shifted_codes) {
  Case c;
  c.shape = shape;
  c.type = random.one_in(2) ? OutputType::kFloat32 : OutputType::kBFloat16;
  c.x = random_codes(random, random_type(random), shape.input_elements(),
                     shifted_codes && random.one_in(3) ? shape.batch : 1, Fill::kUniform, shifted_codes);
  c.w = random_codes(random, random_type(random), shape.weight_elements(),
                     random.one_in(2) ? shape.out_channels : 1, Fill::kUniform,
                     shifted_codes && random.one_in(2));
  const auto numbers = [&](float scale) {
    std::vector<float> list;
    for (int64_t k = 0; k < shape.out_channels; ++k) {
      list.push_back(static_cast<float>(random.between(-999, 999)) * scale);
    }
    return list;
  };
  if (random.one_in(3)) c.bias = numbers(1e-3F);
  if (random.one_in(2)) c.shift = numbers(1e-2F);
  return c;
}

void expect_right(const Case& c, const std::vector<uint32_t>& storage, const Sums& sums,
                  const std::string& what) {
  const int64_t channels = c.shape.out_channels;
  for (int64_t k = 0; k < channels; ++k) {
    const auto index = static_cast<size_t>(k);
    const float shift = c.shift.empty() ? 0.0F : c.shift[index];
    double sum = 0.0, magnitude = 0.0, squares = 0.0;
    for (int64_t i = k; i < c.shape.output_elements(); i += channels) {
      const double d = c.stored(storage, i) - shift;
      sum += d;
      magnitude += std::abs(d);
      squares += d * d;
    }
    ASSERT_NEAR(sums.sum[index], sum, 1e-6 * magnitude) << what << ", channel " << k;
    ASSERT_NEAR(sums.squares[index], squares, 1e-6 * squares) << what << ", channel " << k;
  }
}

const char* const kProblems[] = {
    "mb9ic20ih8oc70kh3ph1",    "mb33ic16ih9oc16kh3ph1",       "mb5ic3ih17oc48kh3ph1sh2",
    "mb70ic8ih1oc10kh1",       "g2mb3ic32ih6oc70kh3ph1",      "mb2ic64ih20oc130kh1",
    "g32mb4ic32ih9oc32kh3ph1", "g4mb4ic4ih40oc8kh3ph1dh1sh1", "mb1ic5ih3oc1kh3"};

TEST(ChannelSums, EveryIsaSumsTheStoredValues) {
  Random random(5);
  for (const char* text : kProblems) {
    for (int i = 0; i < 6; ++i) {
      const Case c = random_case(random, parse_problem(text), i % 3 == 0);
      std::vector<uint32_t> storage;
      for (const Isa isa : available_isas()) {
        const ScopedIsa scope(isa);
        const Sums sums = c.run(storage);
        expect_right(c, storage, sums, std::string(text) + " " + std::string(to_string(isa)));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(ChannelSums, ThreadsDoNotChangeThem) {
  const int threads = num_threads();
  Random random(6);
  for (const char* text : kProblems) {
    const Case c = random_case(random, parse_problem(text), false);
    std::vector<uint32_t> storage;
    for (const Isa isa : available_isas()) {
      const ScopedIsa scope(isa);
      set_num_threads(1);
      const Sums alone = c.run(storage);
      for (const int count : {2, 3, 7}) {
        set_num_threads(count);
        EXPECT_EQ(c.run(storage), alone) << text << " " << to_string(isa) << " " << count << " threads";
      }
    }
  }
  set_num_threads(threads);
}

TEST(ChannelSums, OutputsAreTheSameWithoutThem) {
  Random random(7);
  for (const char* text : kProblems) {
    const Case c = random_case(random, parse_problem(text), false);
    std::vector<uint32_t> with, without(static_cast<size_t>(c.shape.output_elements()));
    c.run(with);
    conv2d_forward(c.shape, c.x.operand(), c.w.operand(), c.bias.empty() ? nullptr : c.bias.data(),
                   {without.data(), c.type});
    EXPECT_EQ(with, without) << text;
  }
}

TEST(ChannelSums, ImpossibleRequestsAreNamed) {
  Random random(8);
  const Case c = random_case(random, parse_problem("mb1ic4ih3oc4kh1"), false);
  std::vector<float> y(static_cast<size_t>(c.shape.output_elements()));
  std::vector<double> sum(4);
  const ChannelSums half{nullptr, sum.data(), nullptr};
  const Output output{y.data(), OutputType::kFloat32, &half};
  EXPECT_THROW(conv2d_forward(c.shape, c.x.operand(), c.w.operand(), nullptr, output), Error);
  const QuantParams one;
  const Operand weight{c.w.storage.data(), c.w.type, {&one, 1}};
  EXPECT_THROW(conv2d_backward_data(c.shape, c.x.operand(), weight, output), Error);
}

}  // namespace
}  // namespace bitdial::kernels::testing_support
