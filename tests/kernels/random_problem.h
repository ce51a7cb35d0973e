#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bitdial/kernels/conv2d_kernels.h"

/// Random operands, and the comparison of a table of kernels with the scalar reference, bit by bit.
namespace bitdial::kernels::testing_support {

constexpr CodeType kCodeTypes[] = {CodeType::kS8, CodeType::kU8, CodeType::kS16, CodeType::kU16};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  bool one_in(int64_t n) { return between(1, n) == 1; }

 private:
  std::mt19937 engine_;
};

/// A tensor of codes with its parameters.
struct Codes {
  CodeType type = CodeType::kS8;
  std::vector<uint16_t> storage;
  std::vector<QuantParams> params;
  Operand operand() const { return {storage.data(), type, params}; }
};

struct Limits {
  int64_t low, high;
};
inline Limits limits_of(CodeType type) {
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
  return {};
}

enum class Fill { kUniform, kExtremes, kLowest, kHighest };

inline Codes random_codes(Random& random, CodeType type, int64_t count, int64_t params, Fill fill,
                          bool shifted) {
  Codes codes;
  codes.type = type;
  const auto [low, high] = limits_of(type);
  const bool wide = code_size(type) == 2;
  codes.storage.resize(static_cast<size_t>(wide ? count : (count + 1) / 2));
  auto* bytes = reinterpret_cast<uint8_t*>(codes.storage.data());
  for (int64_t i = 0; i < count; ++i) {
    int64_t code = random.between(low, high);
    if (fill == Fill::kExtremes) code = random.one_in(2) ? low : high;
    if (fill == Fill::kLowest) code = low;
    if (fill == Fill::kHighest) code = high;
    if (wide) {
      codes.storage[static_cast<size_t>(i)] = static_cast<uint16_t>(code);
    } else {
      bytes[i] = static_cast<uint8_t>(code);
    }
  }
  const bool offsets = random.one_in(2);
  for (int64_t i = 0; i < params; ++i) {
    QuantParams p{.scale = static_cast<float>(random.between(1, 1 << 20)) * 1e-9F};
    if (shifted && offsets) p.offset = static_cast<float>(random.between(-1000, 1000)) * 1e-5F;
    if (shifted && !offsets) p.zero_code = static_cast<int32_t>(random.between(low, high));
    codes.params.push_back(p);
  }
  return codes;
}

inline Fill random_fill(Random& random) { return static_cast<Fill>(random.between(0, 3)); }
inline CodeType random_type(Random& random) { return static_cast<CodeType>(random.between(0, 3)); }

inline std::string describe(const ConvShape& s) {
  return "mb" + std::to_string(s.batch) + "g" + std::to_string(s.groups) + "ic" +
         std::to_string(s.in_channels) + "ih" + std::to_string(s.in_height) + "iw" +
         std::to_string(s.in_width) + "oc" + std::to_string(s.out_channels) + "kh" +
         std::to_string(s.kernel_height) + "kw" + std::to_string(s.kernel_width) + "sh" +
         std::to_string(s.stride_height) + "sw" + std::to_string(s.stride_width) + "ph" +
         std::to_string(s.padding_height) + "pw" + std::to_string(s.padding_width) + "dh" +
         std::to_string(s.dilation_height - 1) + "dw" + std::to_string(s.dilation_width - 1);
}

template <class T>
void expect_same_bits(const std::vector<T>& expected, const std::vector<T>& actual, const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(std::memcmp(&expected[i], &actual[i], sizeof(T)), 0)
        << what << " differs first at " << i << ": expected " << +expected[i] << ", got " << +actual[i];
  }
}

/// Runs `call(table, output)` on the reference and on `table` into outputs of type T.
template <class T, class Call>
void compare(const Conv2dKernels& table, int64_t outputs, const std::string& what, const Call& call) {
  std::vector<T> expected(static_cast<size_t>(outputs), T{77});
  std::vector<T> actual(static_cast<size_t>(outputs), T{99});
  call(scalar::kConv2d, expected.data());
  call(table, actual.data());
  expect_same_bits(expected, actual, what);
}

template <class Call>
void compare_output(const Conv2dKernels& table, bool bfloat16, int64_t outputs, const std::string& what,
                    const Call& call) {
  if (bfloat16) {
    compare<uint16_t>(table, outputs, what + " bf16", [&](const Conv2dKernels& kernels, uint16_t* data) {
      call(kernels, Output{data, OutputType::kBFloat16});
    });
  } else {
    compare<float>(table, outputs, what, [&](const Conv2dKernels& kernels, float* data) {
      call(kernels, Output{data, OutputType::kFloat32});
    });
  }
}

inline std::string types(const Codes& a, const Codes& b) {
  return std::string(" ") + std::string(to_string(a.type)) + std::string(to_string(b.type));
}

inline void check_forward(const Conv2dKernels& table, const ConvShape& s, Random& random) {
  const bool shifted = random.one_in(3);
  const Codes x = random_codes(random, random_type(random), s.input_elements(),
                               random.one_in(3) ? s.batch : 1, random_fill(random), shifted);
  const Codes w = random_codes(random, random_type(random), s.weight_elements(),
                               random.one_in(3) ? s.out_channels : 1, random_fill(random), random.one_in(3));
  std::vector<float> bias;
  for (int64_t k = 0; k < s.out_channels; ++k)
    bias.push_back(static_cast<float>(random.between(-999, 999)) * 1e-3F);
  const float* b = random.one_in(2) ? bias.data() : nullptr;
  compare_output(
      table, random.one_in(2), s.output_elements(), "forward " + describe(s) + types(x, w),
      [&](const Conv2dKernels& k, const Output& y) { k.forward(s, x.operand(), w.operand(), b, y); });
}

inline void check_backward_data(const Conv2dKernels& table, const ConvShape& s, Random& random) {
  const Codes dy = random_codes(random, random_type(random), s.output_elements(),
                                random.one_in(3) ? s.batch : 1, random_fill(random), random.one_in(3));
  const Codes w = random_codes(random, random_type(random), s.weight_elements(), 1, random_fill(random),
                               random.one_in(3));
  compare_output(
      table, random.one_in(2), s.input_elements(), "backward_data " + describe(s) + types(dy, w),
      [&](const Conv2dKernels& k, const Output& dx) { k.backward_data(s, dy.operand(), w.operand(), dx); });
}

inline void check_backward_weight(const Conv2dKernels& table, const ConvShape& s, Random& random) {
  const Codes x =
      random_codes(random, random_type(random), s.input_elements(), 1, random_fill(random), random.one_in(3));
  const Codes dy = random_codes(random, random_type(random), s.output_elements(), 1, random_fill(random),
                                random.one_in(3));
  compare<float>(
      table, s.weight_elements(), "backward_weight " + describe(s) + types(x, dy),
      [&](const Conv2dKernels& k, float* dw) { k.backward_weight(s, x.operand(), dy.operand(), dw); });
}

/// All three directions with both operands filled alike.
inline void check_extremes(const Conv2dKernels& table, const ConvShape& s, CodeType a, CodeType b, Fill fill,
                           Random& random) {
  const Codes x = random_codes(random, a, s.input_elements(), 1, fill, false);
  const Codes w = random_codes(random, b, s.weight_elements(), 1, fill, false);
  const Codes dy = random_codes(random, a, s.output_elements(), 1, fill, false);
  const Codes dy_b = random_codes(random, b, s.output_elements(), 1, fill, false);
  compare_output(
      table, false, s.output_elements(), "forward " + describe(s) + types(x, w),
      [&](const Conv2dKernels& k, const Output& y) { k.forward(s, x.operand(), w.operand(), nullptr, y); });
  compare_output(
      table, false, s.input_elements(), "backward_data " + describe(s) + types(dy, w),
      [&](const Conv2dKernels& k, const Output& dx) { k.backward_data(s, dy.operand(), w.operand(), dx); });
  compare<float>(
      table, s.weight_elements(), "backward_weight " + describe(s) + types(x, dy_b),
      [&](const Conv2dKernels& k, float* dw) { k.backward_weight(s, x.operand(), dy_b.operand(), dw); });
}

}  // namespace bitdial::kernels::testing_support
