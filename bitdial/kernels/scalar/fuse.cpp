// The reference of the block passes: fuse.h applied to one element after the other. It shares no code with
// the vector kernels that are tested against it.
#include <bit>
#include <cmath>
#include <cstdint>

#include "bitdial/kernels/fuse_kernels.h"

namespace bitdial::kernels::scalar {
namespace {

float to_float(float x) { return x; }
float to_float(BFloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

template <class T>
T from_float(float x);
template <>
float from_float<float>(float x) {
  return x;
}
// Rounded half to even; NaN stays NaN.
template <>
BFloat16 from_float<BFloat16>(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return {static_cast<uint16_t>((bits >> 16) | 0x40U)};
  return {static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}

template <class T>
float read(const void* data, int64_t i) {
  return to_float(static_cast<const T*>(data)[i]);
}

// Stores and returns the value as stored.
template <class T>
float write(void* data, int64_t i, float value) {
  T& element = static_cast<T*>(data)[i];
  element = from_float<T>(value);
  return to_float(element);
}

float evaluate(const RationalFit& fit, float x) {
  const float bounded = x < -fit.bound ? -fit.bound : x > fit.bound ? fit.bound : x;
  const float square = bounded * bounded;
  float p = fit.p[RationalFit::kTerms - 1], q = fit.q[RationalFit::kTerms - 1];
  for (int i = RationalFit::kTerms - 2; i >= 0; --i) {
    p = std::fma(p, square, fit.p[i]);
    q = std::fma(q, square, fit.q[i]);
  }
  return std::fma(bounded, p / q, fit.centre);
}

float derivative(Activation activation, float x) {
  if (activation == Activation::kGelu) return evaluate(kGeluDerivative, x);
  const float y = evaluate(kTanh, x);
  return std::fma(-y, y, 1.0F);
}

// ReLU or ReLU6 of y; returns whether the gradient passes. A y that is NaN stays.
bool clamp(Activation activation, float& y) {
  const bool passes = y > 0.0F && (activation != Activation::kRelu6 || y < 6.0F);
  if (y < 0.0F) y = 0.0F;
  if (activation == Activation::kRelu6 && y > 6.0F) y = 6.0F;
  return passes;
}

template <class T, class Y>
void affine(const AffineBlock& p) {
  for (int64_t i = 0; i < p.count; ++i) {
    const int64_t c = (p.phase + i) % p.width;
    float y = std::fma(read<T>(p.a, i), p.scale_a[c], p.shift[c]);
    if (p.b != nullptr) y = std::fma(read<T>(p.b, i), p.scale_b[c], y);
    bool passes = true;
    if (p.activation == Activation::kGelu) y *= evaluate(kNormalDistribution, y);
    if (p.activation == Activation::kTanh) y = evaluate(kTanh, y);
    if (p.activation == Activation::kRelu || p.activation == Activation::kRelu6) {
      passes = clamp(p.activation, y);
    }
    if (p.mask != nullptr) {
      if (i % 16 == 0) p.mask[i / 16] = 0;
      p.mask[i / 16] = static_cast<uint16_t>(p.mask[i / 16] | (passes ? 1 << (i % 16) : 0));
    }
    write<Y>(p.y, i, y);
  }
}

template <class T>
void gradients(const SumBlock& p) {
  for (int64_t i = 0; i < p.count; ++i) {
    const int64_t c = i % p.width;
    float g = read<T>(p.g, i);
    if (p.other != nullptr) g += read<T>(p.other, i);
    if (p.mask != nullptr && (p.mask[i / 16] >> (i % 16) & 1) == 0) g = 0.0F;
    if (p.where != nullptr && p.where[i] == kNowhere) g = 0.0F;
    if (p.activation_input != nullptr) g *= derivative(p.activation, read<T>(p.activation_input, i));
    const bool is_new =
        p.other != nullptr || p.mask != nullptr || p.where != nullptr || p.activation_input != nullptr;
    if (is_new) g = write<T>(p.g, i, g);
    p.sums[c] += g;
    if (p.z != nullptr) p.products[c] = std::fma(g, read<T>(p.z, i) - p.shift[c], p.products[c]);
  }
}

template <class T, class Y>
void max_pool(const PoolWindow& window, void* y, uint8_t* where) {
  for (int64_t c = 0; c < window.channels; ++c) {
    const auto value = [&](int64_t tap) {
      const float x = read<T>(window.taps[tap], c);
      return window.scale != nullptr ? std::fma(x, window.scale[c], window.shift[c]) : x;
    };
    float best = value(0);
    int64_t best_tap = 0;
    for (int64_t tap = 1; tap < window.count; ++tap) {
      const float x = value(tap);
      if (best < x || best != best) {
        best = x;
        best_tap = tap;
      }
    }
    const bool passes = window.activation == Activation::kNone || clamp(window.activation, best);
    write<Y>(y, c, best);
    where[c] = passes ? window.places[best_tap] : kNowhere;
    if (window.best != nullptr) write<T>(window.best, c, read<T>(window.taps[best_tap], c));
  }
}

template <class T>
void max_pool_backward(const PoolWindow& window, const uint8_t* const* wheres, void* dx) {
  for (int64_t c = 0; c < window.channels; ++c) {
    float sum = 0.0F;
    for (int64_t tap = 0; tap < window.count; ++tap) {
      if (wheres[tap][c] != window.places[tap]) continue;
      const float dy = read<T>(window.taps[tap], c);
      sum = window.count == 1 ? dy : sum + dy;  // -0 stays where there is nothing to add
    }
    write<T>(dx, c, sum);
  }
}

template <class T, class Y>
void sum_window(const SumWindow& p, void* y) {
  for (int64_t c = 0; c < p.channels; ++c) {
    float sum = 0.0F;
    for (int64_t i = 0; i < p.rows * p.columns; ++i) {
      sum += read<T>(p.x, i / p.columns * p.row_stride + i % p.columns * p.column_stride + c);
    }
    write<Y>(y, c, sum * p.factor);
  }
}

void sgd(const SgdUpdate& p) {
  for (int64_t i = 0; i < p.count; ++i) {
    float g = std::fma(p.weight_decay, p.weight[i], p.gradient[i]);
    if (p.momentum != nullptr) {
      const float m = p.is_first ? g : std::fma(p.momentum_factor, p.momentum[i], (1.0F - p.dampening) * g);
      p.momentum[i] = m;
      g = p.nesterov ? std::fma(p.momentum_factor, m, g) : m;
    }
    p.weight[i] = std::fma(-p.learning_rate, g, p.weight[i]);
  }
}

}  // namespace

const FuseKernels kFuse = {{affine<float, float>, affine<BFloat16, BFloat16>},
                           {affine<float, float>, affine<BFloat16, float>},
                           {gradients<float>, gradients<BFloat16>},
                           {max_pool<float, float>, max_pool<BFloat16, BFloat16>},
                           {max_pool<float, float>, max_pool<BFloat16, float>},
                           {max_pool_backward<float>, max_pool_backward<BFloat16>},
                           {sum_window<float, float>, sum_window<BFloat16, BFloat16>},
                           {sum_window<float, float>, sum_window<BFloat16, float>},
                           sgd};

}  // namespace bitdial::kernels::scalar
