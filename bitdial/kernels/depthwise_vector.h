#pragma once

#include <cstdint>
#include <cstring>

#include "bitdial/kernels/depthwise_kernels.h"
#include "bitdial/kernels/value.h"

/// DepthwiseKernels over a vector type `V` of int16 codes:
///   kLanes; Vector; zero(); add(a, b) of int32; madd(a, b): a[2i] b[2i] + a[2i+1] b[2i+1] as int32;
///   load<type>(p): codes as int16, 16-bit ones as they are; high_byte(v), low_byte(v): digits of unsigned
///   codes; signed_high_byte(v); zip_low(a, b), zip_high(a, b): pairs of both within each 128 bits;
///   load_pairs(p); store_sums(low, high, sums): lanes in order.
namespace bitdial::kernels::depthwise {
namespace {

/// The planes of one vector of codes; `kWhole` keeps signed 16-bit codes in one.
template <class V, CodeType kType, bool kWhole>
struct Codes {
  static constexpr bool kSplit = kType == CodeType::kU16 || (kType == CodeType::kS16 && !kWhole);
  static constexpr int kPlanes = kSplit ? 2 : 1;
  typename V::Vector plane[kPlanes];

  static Codes load(const void* source) {
    const auto codes = V::template load<kType>(source);
    if constexpr (!kSplit) {
      return {{codes}};
    } else if constexpr (kType == CodeType::kS16) {
      return {{V::signed_high_byte(codes), V::low_byte(codes)}};
    } else {
      return {{V::high_byte(codes), V::low_byte(codes)}};
    }
  }
};

/// int32 sums of a pair of planes.
template <class V>
struct PairSums {
  typename V::Vector low = V::zero(), high = V::zero();

  void add(typename V::Vector low_products, typename V::Vector high_products) {
    low = V::add(low, low_products);
    high = V::add(high, high_products);
  }
};

/// totals[lane] += sums << shift.
template <class V>
void add_totals(const PairSums<V>& sums, int shift, int64_t* totals) {
  alignas(64) int32_t lanes[V::kLanes];
  V::store_sums(sums.low, sums.high, lanes);
  const int64_t weight = int64_t{1} << shift;
  for (int i = 0; i < V::kLanes; ++i) totals[i] += lanes[i] * weight;
}

// ---- forward and data gradient ----

template <class V, CodeType kType, int kWeightPlanes>
void multiply_pixel(const RowTask& task, const uint8_t* const* taps,
                    PairSums<V> (&sums)[Codes<V, kType, true>::kPlanes][kWeightPlanes]) {
  using X = Codes<V, kType, true>;
  const int16_t* weights = task.weights;
  for (int64_t pair = 0; pair < task.pairs; ++pair, taps += 2) {
    const X a = X::load(taps[0] + task.tap_offset);
    const X b = X::load(taps[1] + task.tap_offset);
    for (int q = 0; q < kWeightPlanes; ++q, weights += 2 * V::kLanes) {
      const auto low = V::load_pairs(weights);
      const auto high = V::load_pairs(weights + V::kLanes);
      for (int p = 0; p < X::kPlanes; ++p) {
        sums[p][q].add(V::madd(V::zip_low(a.plane[p], b.plane[p]), low),
                       V::madd(V::zip_high(a.plane[p], b.plane[p]), high));
      }
    }
  }
}

template <class Code, int kLanes>
void sum_codes(const RowTask& task, const uint8_t* const* taps, int64_t* sums) {
  for (int i = 0; i < kLanes; ++i) sums[i] = 0;
  for (int64_t t = 0; t < 2 * task.pairs; ++t) {
    Code codes[kLanes];
    std::memcpy(codes, taps[t] + task.tap_offset, sizeof codes);
    for (int i = 0; i < kLanes; ++i) sums[i] += codes[i];
  }
}

template <int kLanes>
void sum_codes(const RowTask& task, const uint8_t* const* taps, int64_t* sums) {
  switch (task.type) {
    case CodeType::kS8:
      return sum_codes<int8_t, kLanes>(task, taps, sums);
    case CodeType::kU8:
      return sum_codes<uint8_t, kLanes>(task, taps, sums);
    case CodeType::kS16:
      return sum_codes<int16_t, kLanes>(task, taps, sums);
    case CodeType::kU16:
      return sum_codes<uint16_t, kLanes>(task, taps, sums);
  }
}

template <int kLanes>
void correct_pixel(const RowTask& task, const uint8_t* const* taps, int64_t pixel, const int64_t* totals,
                   float* values) {
  int64_t code_sums[kLanes];
  sum_codes<kLanes>(task, taps, code_sums);
  for (int64_t i = 0; i < task.channels; ++i) {
    values[i] = corrected_value(totals[i], code_sums[i], task.weight_sums[pixel][task.first_channel + i],
                                task.counts[pixel], {task.scale, task.offset, task.zero_code},
                                {task.weight_scale[i], task.weight_offset[i], task.weight_zero_code[i]});
  }
}

/// Rounds half to even; a NaN stays one.
uint16_t to_bfloat16(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFU) > 0x7F800000U ? (bits >> 16) | 0x40U : rounded);
}

template <int kLanes>
void store_pixel(const RowTask& task, int64_t pixel, float* values) {
  if (task.bias) {
    for (int i = 0; i < kLanes; ++i) values[i] += task.bias[i];
  }
  const auto channels = static_cast<size_t>(task.channels);
  if (task.output_type == OutputType::kFloat32) {
    float* const target = static_cast<float*>(task.output) + pixel * task.output_stride;
    std::memcpy(target, values, channels * sizeof(float));
    return;
  }
  uint16_t rounded[kLanes];
  for (int i = 0; i < kLanes; ++i) rounded[i] = to_bfloat16(values[i]);
  uint16_t* const target = static_cast<uint16_t*>(task.output) + pixel * task.output_stride;
  std::memcpy(target, rounded, channels * sizeof(uint16_t));
}

template <class V, CodeType kType, int kWeightPlanes>
void run_row(const RowTask& task) {
  constexpr int kPlanes = Codes<V, kType, true>::kPlanes;
  constexpr int kLanes = V::kLanes;
  for (int64_t pixel = 0; pixel < task.pixels; ++pixel) {
    const uint8_t* const* taps = task.taps + pixel * 2 * task.pairs;
    PairSums<V> sums[kPlanes][kWeightPlanes];
    multiply_pixel<V, kType, kWeightPlanes>(task, taps, sums);
    alignas(64) float values[kLanes] = {};
    if (kPlanes == 1 && kWeightPlanes == 1 && !task.corrected) {
      alignas(64) int32_t lanes[kLanes];
      V::store_sums(sums[0][0].low, sums[0][0].high, lanes);
      for (int i = 0; i < kLanes; ++i) {
        values[i] = static_cast<float>(lanes[i]) * (task.scale * task.weight_scale[i]);
      }
    } else {
      alignas(64) int64_t totals[kLanes] = {};
      for (int p = 0; p < kPlanes; ++p) {
        for (int q = 0; q < kWeightPlanes; ++q) {
          add_totals<V>(sums[p][q], 8 * (kPlanes - 1 - p + kWeightPlanes - 1 - q), totals);
        }
      }
      if (task.corrected) {
        correct_pixel<kLanes>(task, taps, pixel, totals, values);
      } else {
        for (int i = 0; i < kLanes; ++i) {
          values[i] = static_cast<float>(totals[i]) * (task.scale * task.weight_scale[i]);
        }
      }
    }
    store_pixel<kLanes>(task, pixel, values);
  }
}

template <class V, CodeType kType>
void run_row_of(const RowTask& task) {
  if (task.weight_planes == 1) {
    run_row<V, kType, 1>(task);
  } else {
    run_row<V, kType, 2>(task);
  }
}

template <class V>
void row(const RowTask& task) {
  switch (task.type) {
    case CodeType::kS8:
      return run_row_of<V, CodeType::kS8>(task);
    case CodeType::kU8:
      return run_row_of<V, CodeType::kU8>(task);
    case CodeType::kS16:
      return run_row_of<V, CodeType::kS16>(task);
    case CodeType::kU16:
      return run_row_of<V, CodeType::kU16>(task);
  }
}

// ---- weight gradient: pairs are neighbouring pixels ----

template <class V, CodeType kX, CodeType kDy>
void run_gradient(const GradientTask& task) {
  using X = Codes<V, kX, true>;
  using Dy = Codes<V, kDy, false>;
  PairSums<V> sums[X::kPlanes][Dy::kPlanes];
  const auto* x = static_cast<const uint8_t*>(task.x);
  const auto* dy = static_cast<const uint8_t*>(task.dy);
  for (int64_t pixel = 0; pixel < task.pixels; pixel += 2, x += 2 * task.x_step, dy += 2 * task.dy_step) {
    const X x0 = X::load(x);
    const Dy dy0 = Dy::load(dy);
    X x1{};
    Dy dy1{};
    if (pixel + 1 < task.pixels) {
      x1 = X::load(x + task.x_step);
      dy1 = Dy::load(dy + task.dy_step);
    }
    for (int p = 0; p < X::kPlanes; ++p) {
      const auto x_low = V::zip_low(x0.plane[p], x1.plane[p]);
      const auto x_high = V::zip_high(x0.plane[p], x1.plane[p]);
      for (int q = 0; q < Dy::kPlanes; ++q) {
        sums[p][q].add(V::madd(x_low, V::zip_low(dy0.plane[q], dy1.plane[q])),
                       V::madd(x_high, V::zip_high(dy0.plane[q], dy1.plane[q])));
      }
    }
  }
  for (int p = 0; p < X::kPlanes; ++p) {
    for (int q = 0; q < Dy::kPlanes; ++q) {
      add_totals<V>(sums[p][q], 8 * (X::kPlanes - 1 - p + Dy::kPlanes - 1 - q), task.sums);
    }
  }
}

template <class V, CodeType kX>
void gradient_of(const GradientTask& task) {
  switch (task.dy_type) {
    case CodeType::kS8:
      return run_gradient<V, kX, CodeType::kS8>(task);
    case CodeType::kU8:
      return run_gradient<V, kX, CodeType::kU8>(task);
    case CodeType::kS16:
      return run_gradient<V, kX, CodeType::kS16>(task);
    case CodeType::kU16:
      return run_gradient<V, kX, CodeType::kU16>(task);
  }
}

template <class V>
void gradient(const GradientTask& task) {
  switch (task.x_type) {
    case CodeType::kS8:
      return gradient_of<V, CodeType::kS8>(task);
    case CodeType::kU8:
      return gradient_of<V, CodeType::kU8>(task);
    case CodeType::kS16:
      return gradient_of<V, CodeType::kS16>(task);
    case CodeType::kU16:
      return gradient_of<V, CodeType::kU16>(task);
  }
}

template <class V>
constexpr DepthwiseKernels kKernels = {V::kLanes, row<V>, gradient<V>};

}  // namespace
}  // namespace bitdial::kernels::depthwise
