#include "bitdial/core/quantizer.h"

#include <limits>

#include "bitdial/core/error.h"

namespace bitdial {
namespace {

// Normal powers of two whose reciprocal is normal too.
bool is_exact_reciprocal(float scale) {
  int exponent = 0;
  return std::frexp(scale, &exponent) == 0.5F && exponent >= -125 && exponent <= 127;
}

float find_zero(const Quantizer& quantizer) {
  constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
  const float r = round_half_even(steps(quantizer, 0.0F));
  if (r < quantizer.low || r > quantizer.high) return kNone;
  return dequantize_value(quantizer, r) == 0.0F ? r : kNone;
}

}  // namespace

Quantizer make_quantizer(const Format& format, const QuantParams& params) {
  require(!format.is_float(), "quantize", "a float32 format has no codes");
  check(format);
  require(std::isfinite(params.scale) && params.scale > 0.0F && std::isfinite(params.offset), "quantize",
          "scale {} or offset {} is not usable", params.scale, params.offset);
  const CodeRange codes = code_range(format);
  Quantizer quantizer{.scale = params.scale,
                      .reciprocal = 1.0F / params.scale,
                      .reciprocal_is_exact = is_exact_reciprocal(params.scale),
                      .offset = params.offset + 0.0F,
                      .low = static_cast<float>(codes.min - params.zero_code),
                      .high = static_cast<float>(codes.max - params.zero_code),
                      .zero_code = params.zero_code,
                      .stochastic = format.rounding == Rounding::kStochastic};
  if (has_integer_codes(format)) quantizer.zero_steps = find_zero(quantizer);
  return quantizer;
}

}  // namespace bitdial
