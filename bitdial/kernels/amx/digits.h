#pragma once

#include <cstdint>

#include "bitdial/kernels/conv2d.h"

/// Codes of 16 bits as digits of 8: x = 256 * hi + lo, hi = x >> 8 with x's sign, lo = x & 255 unsigned.
/// Exact for every code. A product of two operands is the sum of the products of their digits, each at full
/// 8-bit speed.
namespace bitdial::kernels::amx {

/// The byte planes of one operand, most significant first.
struct Planes {
  int count = 1;
  bool is_signed[2] = {false, false};

  int64_t max_magnitude(int plane) const { return is_signed[plane] ? 128 : 255; }
  /// log2 of a plane's digit weight.
  int shift(int plane) const { return 8 * (count - 1 - plane); }
};

Planes planes_of(CodeType type);

/// Products of planes with the same digit weight; they share one int32 sum.
struct DigitClass {
  int pairs = 0;
  int plane_a[2] = {}, plane_b[2] = {};
  int shift = 0;
};

/// The digit classes of a pair of operands.
struct DigitPlan {
  Planes a, b;
  int classes = 0;
  DigitClass by_class[3] = {};
  /// How many steps of 64 products fit into the int32 sums whatever the codes (s8*s8 131071 products, both
  /// cross products of s16*s16 32896, ...).
  int64_t max_steps = 0;
};

DigitPlan plan_digits(CodeType type_a, CodeType type_b);

}  // namespace bitdial::kernels::amx
