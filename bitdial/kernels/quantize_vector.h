#pragma once

#include <cstring>

#include "bitdial/kernels/quantize_kernels.h"

/// The quantise kernels for vectors of 16 lanes. Included once per instruction set, after its lane type,
/// which is declared in an unnamed namespace: every instantiation stays inside its source file, so the linker
/// cannot give one instruction set the code of another. For the same reason nothing here calls inline
/// functions of other headers.
///
/// A lane type V has float32 (F), int32 (I) and float64 (D) lanes and masks (M); see avx512vnni/quantize.cpp.
namespace bitdial::kernels {

template <class V>
struct VectorQuantize {
  using F = typename V::F;
  using I = typename V::I;
  using M = typename V::M;
  static constexpr int64_t kLanes = kSumLanes;

  // ---- extremes ----
  struct Extremes {
    F min = V::set(kInfinity);
    F max = V::set(-kInfinity);
    F poison = V::set(0.0F);  // sum of 0 * x: NaN once an x is not finite

    void add(F x) {
      min = V::min(x, min);  // x86 order: an x that is NaN leaves the other operand
      max = V::max(x, max);
      poison = V::multiply_add(x, V::set(0.0F), poison);
    }
    void merge_into(BlockStatistics& statistics) const {
      const float low = V::reduce_min(min), high = V::reduce_max(max);
      if (low < statistics.min) statistics.min = low;
      if (high > statistics.max) statistics.max = high;
      if (V::any(V::is_nan(poison))) statistics.finite = false;
    }
  };

  // Copies the last lanes of a tensor to a full vector; the others repeat the first (`fill` if given).
  template <class Input>
  struct Tail {
    Input x[kLanes];
    Tail(const Input* from, int64_t count) {
      for (int64_t i = 0; i < kLanes; ++i) x[i] = from[i < count ? i : 0];
    }
    Tail(const Input* from, int64_t count, Input fill) {
      for (int64_t i = 0; i < kLanes; ++i) x[i] = i < count ? from[i] : fill;
    }
  };

  template <class Input>
  static void measure(const void* data, int64_t count, BlockStatistics& statistics) {
    const auto* x = static_cast<const Input*>(data);
    Extremes even, odd;
    int64_t i = 0;
    for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
      even.add(V::load(x + i));
      odd.add(V::load(x + i + kLanes));
    }
    for (; i + kLanes <= count; i += kLanes) even.add(V::load(x + i));
    if (i < count) odd.add(V::load(Tail<Input>(x + i, count - i).x));
    even.merge_into(statistics);
    odd.merge_into(statistics);
  }

  // ---- quantising ----
  struct Constants {
    F scale, reciprocal, offset, low, high;
    I zero_steps, zero_code;
    bool multiply;
    // Steps times `unit`, a power of two that the caller knows to keep every constant normal.
    explicit Constants(const Quantizer& q, float unit = 1.0F)
        : scale(V::set(q.scale / unit)),
          reciprocal(V::set(q.reciprocal * unit)),
          offset(V::set(q.offset)),
          low(V::set(q.low * unit)),
          high(V::set(q.high * unit)),
          // No code of 16 bits stands for INT32_MIN.
          zero_steps(V::set_int(q.zero_steps == q.zero_steps
                                    ? static_cast<uint32_t>(static_cast<int32_t>(q.zero_steps))
                                    : 0x80000000U)),
          zero_code(V::set_int(static_cast<uint32_t>(q.zero_code))),
          multiply(q.reciprocal_is_exact) {}

    F steps(F x) const {
      const F shifted = V::sub(x, offset);
      return multiply ? V::mul(shifted, reciprocal) : V::div(shifted, scale);
    }
    F clamped_steps(F x) const { return V::min(V::max(steps(x), low), high); }  // NaN becomes low
  };

  // The top kStochasticBits of random_bits (core/random.h) for 16 indices with the same upper half. A key
  // that is xored before x ^= x >> s is xored after it as key ^ (key >> s).
  struct RandomBits {
    I base, key_a, key_b;
    explicit RandomBits(const QuantizeBlock& block) {
      const uint32_t a = block.key.a ^ (static_cast<uint32_t>(block.index_base >> 32) * 0x9E3779B9U);
      base = V::set_int(static_cast<uint32_t>(block.index_base));
      key_a = V::set_int(a ^ (a >> 16));
      key_b = V::set_int(block.key.b ^ (block.key.b >> 15));
    }

    I at(const uint32_t* offsets) const {
      I x = V::add(base, V::load_int(offsets));
      x = V::bit_xor(x, V::template shift_right<16>(x), key_a);
      x = V::mul(x, V::set_int(0x7FEB352DU));
      x = V::bit_xor(x, V::template shift_right<15>(x), key_b);
      x = V::mul(x, V::set_int(0x846CA68BU));
      x = V::bit_xor(x, V::template shift_right<16>(x));
      return V::template shift_right<32 - kStochasticBits>(x);
    }
  };

  // round_stochastic of core/quantizer.h: the nearest integer, and the 1, 0 or -1 that is added to it.
  struct StochasticRounding {
    F nearest;
    I up;
    StochasticRounding(F y, I bits) : nearest(V::round(y)) {
      const I fraction = V::to_int(V::mul(V::sub(y, nearest), V::set(0x1p22F)));
      up = V::template shift_right_signed<kStochasticBits>(V::add(fraction, bits));
    }
  };

  // kNarrow is stochastic rounding in fixed point with 22 fraction bits: 9 bits are left for the integer.
  enum class Path { kNearest, kStochastic, kNarrow };

  template <Path kPath>
  static I rounded(const Constants& constants, F x, const RandomBits& random, const uint32_t* offsets) {
    const F y = constants.clamped_steps(x);
    if constexpr (kPath == Path::kNearest) {
      return V::to_int(y);
    } else if constexpr (kPath == Path::kNarrow) {
      return V::template shift_right_signed<kStochasticBits>(V::add(V::to_int(y), random.at(offsets)));
    } else {
      const StochasticRounding rounding(y, random.at(offsets));
      return V::add(V::to_int(rounding.nearest), rounding.up);
    }
  }

  template <Path kPath>
  static F rounded_wide(const Constants& constants, F x, const RandomBits& random, const uint32_t* offsets) {
    const F y = constants.clamped_steps(x);
    if constexpr (kPath == Path::kNearest) {
      return V::round(y);
    } else {
      const StochasticRounding rounding(y, random.at(offsets));
      return V::add(rounding.nearest, V::to_float(rounding.up));
    }
  }

  // Extremes are merged for narrow codes only: wide ones are measured before.
  template <class Input, class Code, Path kPath>
  static void quantize_as(const Quantizer& quantizer, const QuantizeBlock& block,
                          BlockStatistics& statistics) {
    const auto* x = static_cast<const Input*>(block.x);
    auto* codes = static_cast<Code*>(block.codes);
    const Constants constants(quantizer, kPath == Path::kNarrow ? 0x1p22F : 1.0F);
    const RandomBits random(block);
    Extremes extremes;
    I zeros = V::set_int(0);

    const auto sixteen = [&](const Input* from, const uint32_t* offsets, Code* to, M valid) {
      if constexpr (V::template is_float<Code>()) {
        const F r = rounded_wide<kPath>(constants, V::load(from), random, offsets);
        const F value = V::add(V::mul(constants.scale, r), constants.offset);
        // Several wide codes may round to 0.0.
        zeros = V::count(zeros, V::both(valid, V::equal(value, V::set(0.0F))));
        V::store(to, value);
      } else {
        const F element = V::load(from);
        extremes.add(element);
        const I r = rounded<kPath>(constants, element, random, offsets);
        zeros = V::count(zeros, V::both(valid, V::equal(r, constants.zero_steps)));
        V::store(to, V::add(r, constants.zero_code));
      }
    };

    const auto offsets_at = [&](int64_t i) {
      return kPath == Path::kNearest ? nullptr : block.index_offsets + i;
    };
    int64_t i = 0;
    for (; i + kLanes <= block.count; i += kLanes) sixteen(x + i, offsets_at(i), codes + i, V::first(kLanes));
    if (const int64_t rest = block.count - i; rest > 0) {
      Code last[kLanes];
      sixteen(Tail<Input>(x + i, rest).x, offsets_at(i), last, V::first(rest));
      std::memcpy(codes + i, last, static_cast<size_t>(rest) * sizeof(Code));
    }
    statistics.zeros += V::reduce_count(zeros);
    if constexpr (!V::template is_float<Code>()) extremes.merge_into(statistics);
  }

  template <class Input>
  static int64_t count_saturated(const Quantizer& quantizer, const QuantizeBlock& block,
                                 const BlockStatistics& extremes) {
    const auto* x = static_cast<const Input*>(block.x);
    const Constants constants(quantizer);
    const F low = V::set(quantizer.low - 0.5F), high = V::set(quantizer.high + 0.5F);
    const F least = constants.steps(V::set(extremes.min)), largest = constants.steps(V::set(extremes.max));
    // Steps are monotone in x: with both extremes inside, nothing is saturated, and most blocks are such.
    if (!V::any(V::either(V::less(least, low), V::less(high, largest)))) return 0;
    I saturated = V::set_int(0);
    const auto sixteen = [&](const Input* from, M valid) {
      const F y = constants.steps(V::load(from));
      saturated = V::count(saturated, V::both(valid, V::either(V::less(y, low), V::less(high, y))));
    };
    int64_t i = 0;
    for (; i + kLanes <= block.count; i += kLanes) sixteen(x + i, V::first(kLanes));
    if (i < block.count) sixteen(Tail<Input>(x + i, block.count - i).x, V::first(block.count - i));
    return V::reduce_count(saturated);
  }

  template <class Input, class Code>
  static void quantize_to(const Quantizer& quantizer, const QuantizeBlock& block,
                          BlockStatistics& statistics) {
    if (!quantizer.stochastic) return quantize_as<Input, Code, Path::kNearest>(quantizer, block, statistics);
    if constexpr (sizeof(Code) == 1) {
      const bool constants_stay_normal = quantizer.scale > 0x1p-100F && quantizer.scale < 0x1p100F;
      if (constants_stay_normal) return quantize_as<Input, Code, Path::kNarrow>(quantizer, block, statistics);
    }
    return quantize_as<Input, Code, Path::kStochastic>(quantizer, block, statistics);
  }

  template <class Input>
  static void quantize_narrow(const Quantizer& quantizer, Container container, const QuantizeBlock& block,
                              BlockStatistics& statistics) {
    switch (container) {
      case Container::kInt8:
        return quantize_to<Input, int8_t>(quantizer, block, statistics);
      case Container::kUInt8:
        return quantize_to<Input, uint8_t>(quantizer, block, statistics);
      case Container::kInt16:
        return quantize_to<Input, int16_t>(quantizer, block, statistics);
      case Container::kUInt16:
        return quantize_to<Input, uint16_t>(quantizer, block, statistics);
      case Container::kFloat32:
        break;
    }
  }

  template <class Input>
  static void quantize(const Quantizer& quantizer, Container container, const QuantizeBlock& block,
                       BlockStatistics& statistics) {
    BlockStatistics own;
    if (container == Container::kFloat32) {  // wide codes may take the place of x: look at x first
      measure<Input>(block.x, block.count, own);
      own.saturated = count_saturated<Input>(quantizer, block, own);
      quantize_to<Input, float>(quantizer, block, own);
    } else {
      quantize_narrow<Input>(quantizer, container, block, own);
      own.saturated = count_saturated<Input>(quantizer, block, own);
    }
    statistics.saturated += own.saturated;
    statistics.zeros += own.zeros;
    if (own.min < statistics.min) statistics.min = own.min;
    if (own.max > statistics.max) statistics.max = own.max;
    statistics.finite = statistics.finite && own.finite;
  }

  // ---- sums ----
  template <class Input>
  static double abs_sum(const void* data, int64_t count) {
    const auto* x = static_cast<const Input*>(data);
    typename V::D sums = V::zero_sums();
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) V::accumulate(sums, V::abs(V::load(x + i)));
    if (i < count) V::accumulate(sums, V::abs(V::load(Tail<Input>(x + i, count - i, Input{}).x)));
    double lanes[kLanes];
    V::store(lanes, sums);
    return join_lanes(lanes);
  }

  // A lane adds at most kBlock / kLanes = 128 magnitudes of at most 2^23: below 2^31.
  template <class Input>
  static int64_t quantized_abs_sum(const Quantizer& quantizer, const void* data, int64_t count) {
    const auto* x = static_cast<const Input*>(data);
    const Constants constants(quantizer);
    I sums = V::set_int(0);
    const auto sixteen = [&](const Input* from) {
      sums = V::add(sums, V::abs(V::to_int(constants.clamped_steps(V::load(from)))));
    };
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) sixteen(x + i);
    if (i < count) sixteen(Tail<Input>(x + i, count - i, Input{}).x);
    return V::reduce_count(sums);
  }

  // ---- dequantising ----
  template <class Code>
  static void dequantize_from(const QuantParams& params, const void* data, int64_t count, float* x) {
    const auto* codes = static_cast<const Code*>(data);
    const F scale = V::set(params.scale), offset = V::set(params.offset);
    const I zero_code = V::set_int(static_cast<uint32_t>(params.zero_code));
    const auto sixteen = [&](const Code* from, float* to) {
      V::store(to, V::add(V::mul(scale, V::to_float(V::sub(V::load_codes(from), zero_code))), offset));
    };
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) sixteen(codes + i, x + i);
    if (i < count) {
      float last[kLanes];
      sixteen(Tail<Code>(codes + i, count - i).x, last);
      std::memcpy(x + i, last, static_cast<size_t>(count - i) * sizeof(float));
    }
  }

  static void dequantize(const QuantParams& params, CodeType type, const void* codes, int64_t count,
                         float* x) {
    switch (type) {
      case CodeType::kS8:
        return dequantize_from<int8_t>(params, codes, count, x);
      case CodeType::kU8:
        return dequantize_from<uint8_t>(params, codes, count, x);
      case CodeType::kS16:
        return dequantize_from<int16_t>(params, codes, count, x);
      case CodeType::kU16:
        return dequantize_from<uint16_t>(params, codes, count, x);
    }
  }

  static constexpr QuantizeKernels kernels() {
    return {{quantize<float>, quantize<BFloat16>},
            {measure<float>, measure<BFloat16>},
            {abs_sum<float>, abs_sum<BFloat16>},
            {quantized_abs_sum<float>, quantized_abs_sum<BFloat16>},
            dequantize};
  }
};

}  // namespace bitdial::kernels
