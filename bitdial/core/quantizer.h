#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "bitdial/core/format.h"
#include "bitdial/core/random.h"

/// The one definition of quantising a value; every kernel of every instruction set computes these bits.
///
///   y = (x - offset) / scale              two float32 operations
///   r = round(clamp(y, low, high))        the step number, an integer
///   q = r + zero_code                     the code
///   x^ = scale * r + offset               two float32 operations
///
/// Clamping comes before rounding. The limits are integers and both roundings are monotone and keep integers,
/// so the order makes no difference to the result: this is the "clamp after rounding" of APT and AdaPT and
/// the "clamp first" of SBM's quantiser alike.
namespace bitdial {

/// The constants of one QuantParams under one format.
struct Quantizer {
  float scale = 1.0F;
  float reciprocal =
      1.0F;  ///< 1 / scale, used when exact: steps that are powers of two multiply, others divide
  bool reciprocal_is_exact = true;
  float offset = 0.0F;
  float low = 0.0F, high = 0.0F;  ///< limits of r
  int32_t zero_code = 0;
  /// The r that stands for 0.0; NaN when none does, and for codes above 16 bits, of which several may.
  float zero_steps = std::numeric_limits<float>::quiet_NaN();
  bool stochastic = false;
};

/// Throws Error for a float format and for a scale that is not positive and finite.
Quantizer make_quantizer(const Format& format, const QuantParams& params);

inline float steps(const Quantizer& quantizer, float x) {
  const float shifted = x - quantizer.offset;
  return quantizer.reciprocal_is_exact ? shifted * quantizer.reciprocal : shifted / quantizer.scale;
}

/// NaN becomes `low`.
inline float clamp_steps(const Quantizer& quantizer, float y) {
  const float raised = y > quantizer.low ? y : quantizer.low;
  return raised < quantizer.high ? raised : quantizer.high;
}

/// More than half a step outside the representable range; false for NaN.
inline bool is_saturated(const Quantizer& quantizer, float y) {
  return y < quantizer.low - 0.5F || y > quantizer.high + 0.5F;
}

/// Round half to even. Adding 2^23 leaves no fraction bits; from 2^23 on every float32 is an integer.
inline float round_half_even(float y) {
  const float magic = std::copysign(0x1p23F, y);
  return std::fabs(y) < 0x1p23F ? (y + magic) - magic : y;
}

/// floor(y + u) with y rounded to a multiple of 2^-22 and u the top 22 of the random bits, as a fraction of
/// 1: the distribution of AdaPT's rne(y + u - 0.5) and of SBM's rne(y + U(-0.5, 0.5)), without the rounding
/// of that float32 sum, which would move one integer in 2^18 (y = 100) or 2^10 (y = 30000). Here integers
/// never move, and the mean is y within 2^-23.
inline constexpr int kStochasticBits = 22;
inline float round_stochastic(float y, uint32_t bits) {
  const float nearest = round_half_even(y);
  const auto fraction = static_cast<int32_t>(round_half_even((y - nearest) * 0x1p22F));
  const int32_t up = (fraction + static_cast<int32_t>(bits >> (32 - kStochasticBits))) >> kStochasticBits;
  return nearest + static_cast<float>(up);
}

/// The step number r of x. `bits` matter for stochastic rounding only.
inline float quantize_value(const Quantizer& quantizer, float x, uint32_t bits) {
  const float y = clamp_steps(quantizer, steps(quantizer, x));
  return quantizer.stochastic ? round_stochastic(y, bits) : round_half_even(y);
}

inline float dequantize_value(const Quantizer& quantizer, float r) {
  return quantizer.scale * r + quantizer.offset;
}

}  // namespace bitdial
