#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace bitdial {

/// How a scale follows from a word length and the range of a tensor.
enum class ScaleRule : uint8_t {
  kFloat,             ///< not quantised: float32, or bfloat16 where the word length is 16
  kFixed,             ///< fixed point <WL,FL>: step 2^-FL, no look at the data (AdaPT)
  kPowerOfTwo,        ///< step 2^s, s = ceil(log2(absmax / (2^(n-1) - 1))) (APT, rule `ceil`)
  kPowerOfTwoVendor,  ///< step 2^s, s = floor(log2 absmax) - (n - 2) (APT, rule `vendor`)
  kBlockFloat,        ///< step 2^-s, s the largest with max <= (2^(n-1) - 0.5) 2^-s and
                      ///< |min| <= (2^(n-1) + 0.5) 2^-s (MuPPET)
  kSymmetric,         ///< step absmax / (2^(n-1) - 1), codes -(2^(n-1)-1) .. 2^(n-1)-1
  kAffine,            ///< step (max - min) / (2^n - 1), codes 0 .. 2^n-1 (SBM, CPT, PFQ, LDP)
};

/// Over which elements one scale is taken. `kChannel` is dimension 0 of a weight (output channel), `kSample`
/// dimension 0 of an activation.
enum class Granularity : uint8_t { kTensor, kChannel, kSample };

enum class Rounding : uint8_t { kNearestEven, kStochastic };

/// `kExact`: the range of this very tensor (an extra pass). `kPrevious`: the range of earlier steps; values
/// outside saturate and are counted.
enum class RangeSource : uint8_t { kExact, kPrevious };

/// How the range of a tensor follows from its elements: the extremes, or the mean over samples of each
/// sample's extremes (SBM's activations).
enum class RangeStatistic : uint8_t { kExtreme, kSampleMean };

/// The description of a quantised tensor: everything but the scale itself. A value type; equal formats
/// quantise equally.
struct Format {
  ScaleRule rule = ScaleRule::kFloat;
  int word_length = 32;     ///< bits, sign included; 2..32
  int fraction_length = 0;  ///< kFixed only: step 2^-fraction_length; may exceed word_length - 1
  bool exact_zero = false;  ///< kAffine only: 0.0 is a code, the zero point an integer
  Granularity granularity = Granularity::kTensor;
  Rounding rounding = Rounding::kNearestEven;
  RangeSource range_source = RangeSource::kExact;
  RangeStatistic range_statistic = RangeStatistic::kExtreme;

  bool operator==(const Format&) const = default;

  bool is_float() const { return rule == ScaleRule::kFloat; }
  bool is_bfloat16() const { return is_float() && word_length == 16; }
  static Format float32() { return {}; }
  static Format bfloat16() { return {.word_length = 16}; }
};

/// The integer type that carries the codes. Above 16 bits codes live as fixed-point values in float32
/// (up to 24 bits exactly; beyond, the float's own rounding is the finer grid).
enum class Container : uint8_t { kInt8, kUInt8, kInt16, kUInt16, kFloat32 };

Container container(const Format& format);

/// Whether both operands of a GEMM in these formats run on the integer kernels.
bool has_integer_codes(const Format& format);

struct CodeRange {
  int64_t min = 0;
  int64_t max = 0;
};

/// Smallest and largest code of a quantised format. kFixed, kBlockFloat and the powers of two are asymmetric
/// (-2^(n-1) .. 2^(n-1)-1), kSymmetric is not, kAffine starts at 0.
CodeRange code_range(const Format& format);

/// What turns a code q into its value: scale * (q - zero_code) + offset.
/// `zero_code` is used by kAffine with exact zero, `offset` (the real-valued zero point, the minimum) by
/// kAffine without; both are 0 in every other rule.
struct QuantParams {
  float scale = 1.0F;
  int32_t zero_code = 0;
  float offset = 0.0F;

  bool operator==(const QuantParams&) const = default;
};

/// The range of the data that a scale is made from.
struct Range {
  float min = 0.0F;
  float max = 0.0F;
  float absmax() const;
  bool is_finite() const;
  bool operator==(const Range&) const = default;
};

/// Throws Error that names the first impossible member: a word length outside 2..32, a fraction length
/// outside -126..126, exact zero at 32 bits (the zero point is an int32).
void check(const Format& format);

/// The parameters that `format` prescribes for data of this range; throws Error unless the range is finite
/// and min <= max. A range of zero width gives a usable scale (all codes 0 or the code of that value). Every
/// step is a normal float32: kAffine's has the floor 1e-8 of SBM's code, kSymmetric's the floor 2^-126.
/// kAffine with exact zero widens the range to contain 0 and rounds the zero point to the nearest code.
QuantParams choose_params(const Format& format, Range range);

/// The exponent s of APT's step 2^s, in exact arithmetic (no rounded logarithm), limited to -126..126.
/// absmax = 0 gives 0.
int power_of_two_exponent(ScaleRule rule, float absmax, int word_length);

/// The s of kBlockFloat's step 2^-s, in exact arithmetic, limited to -126..126; 0 for a range of zeros.
int block_float_shift(Range range, int word_length);

/// "float32", "bfloat16", "fixed<8,4>", "pow2-8", "pow2v-8" (vendor rule), "bfp-8", "sym-8", "affine-8", with
/// suffixes
/// "/channel",
/// "/sample", "+zero" (exact zero), "+sr".
std::string to_string(const Format& format);

/// Every member by name; reading takes absent members at their default and rejects unknown names. Floats
/// survive the round trip exactly.
void to_json(nlohmann::json& json, const Format& format);
void from_json(const nlohmann::json& json, Format& format);
void to_json(nlohmann::json& json, const QuantParams& params);
void from_json(const nlohmann::json& json, QuantParams& params);
void to_json(nlohmann::json& json, const Range& range);
void from_json(const nlohmann::json& json, Range& range);

}  // namespace bitdial
