#pragma once

#include "bitdial/kernels/fuse_kernels.h"

/// The block passes for vectors of 16 lanes. Included once per instruction set, after its lane type; see
/// quantize_vector.h for why nothing here calls inline functions of other headers.
namespace bitdial::kernels {

template <class V>
struct VectorFuse {
  using F = typename V::F;
  using I = typename V::I;
  using M = typename V::M;
  static constexpr int64_t kLanes = 16;

  template <class T>
  static F rounded(F x) {
    if constexpr (sizeof(T) == 2) {
      return V::round_to_bfloat16(x);
    } else {
      return x;
    }
  }

  // The first `count` elements, zeros behind.
  template <class T>
  static F load_some(const T* from, int64_t count) {
    if (count == kLanes) return V::load(from);
    T some[kLanes]{};
    for (int64_t i = 0; i < count; ++i) some[i] = from[i];
    return V::load(some);
  }
  static I load_places(const uint8_t* from, int64_t count) {
    if (count == kLanes) return V::load_codes(from);
    uint8_t some[kLanes]{};
    for (int64_t i = 0; i < count; ++i) some[i] = from[i];
    return V::load_codes(some);
  }
  template <class T, class Register>
  static void store_some(T* to, Register x, int64_t count) {
    if (count == kLanes) return V::store(to, x);
    T some[kLanes];
    V::store(some, x);
    for (int64_t i = 0; i < count; ++i) to[i] = some[i];
  }

  // Brings what is read a block later: the caches' own prefetchers stop where the passes between two blocks
  // work on something else, and at the end of each page.
  template <class T>
  static void prefetch(const T* at) {
    __builtin_prefetch(reinterpret_cast<const char*>(at) + 4096);
  }

  // body(i, count) for every vector of the range; only the last may have fewer than 16 elements.
  template <class Body>
  static void for_each_vector(int64_t count, const Body& body) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) body(i, kLanes);
    if (i < count) body(i, count - i);
  }

  static F evaluate(const RationalFit& fit, F x) {
    const F bounded = V::min(V::set(fit.bound), V::max(V::set(-fit.bound), x));  // x86 order: NaN stays
    const F square = V::mul(bounded, bounded);
    F p = V::set(fit.p[RationalFit::kTerms - 1]), q = V::set(fit.q[RationalFit::kTerms - 1]);
    for (int i = RationalFit::kTerms - 2; i >= 0; --i) {
      p = V::multiply_add(p, square, V::set(fit.p[i]));
      q = V::multiply_add(q, square, V::set(fit.q[i]));
    }
    return V::multiply_add(bounded, V::div(p, q), V::set(fit.centre));
  }

  static F smooth(Activation activation, F x) {
    if (activation == Activation::kTanh) return evaluate(kTanh, x);
    return V::mul(x, evaluate(kNormalDistribution, x));
  }
  static F derivative(Activation activation, F x) {
    if (activation != Activation::kTanh) return evaluate(kGeluDerivative, x);
    const F y = evaluate(kTanh, x);
    return V::multiply_add(V::sub(V::set(0.0F), y), y, V::set(1.0F));
  }

  // ReLU or ReLU6 of x; returns where the gradient passes. An x that is NaN stays (x86 order of operands).
  static M clamp(Activation activation, F& x) {
    const F zero = V::set(0.0F);
    M passes = V::less(zero, x);
    if (activation == Activation::kRelu6) {
      const F six = V::set(6.0F);
      passes = V::both(passes, V::less(x, six));
      x = V::min(six, x);
    }
    x = V::max(zero, x);
    return passes;
  }

  template <class T, class Y, bool kSecond>
  static void affine_of(const AffineBlock& p) {
    const auto* a = static_cast<const T*>(p.a);
    const auto* b = static_cast<const T*>(p.b);
    auto* y = static_cast<Y*>(p.y);
    int64_t c = p.phase;
    for_each_vector(p.count, [&](int64_t i, int64_t count) {
      prefetch(a + i);
      F x = V::multiply_add(load_some(a + i, count), V::load(p.scale_a + c), V::load(p.shift + c));
      if constexpr (kSecond) prefetch(b + i);
      if constexpr (kSecond) x = V::multiply_add(load_some(b + i, count), V::load(p.scale_b + c), x);
      if (p.activation == Activation::kGelu || p.activation == Activation::kTanh) {
        x = smooth(p.activation, x);
      } else if (p.activation != Activation::kNone) {
        const M passes = clamp(p.activation, x);
        if (p.mask != nullptr) p.mask[i / kLanes] = V::bits(V::both(passes, V::first(count)));
      }
      store_some(y + i, rounded<Y>(x), count);
      c = c + kLanes == p.width ? 0 : c + kLanes;
    });
  }

  template <class T, class Y>
  static void affine(const AffineBlock& p) {
    return p.b != nullptr ? affine_of<T, Y, true>(p) : affine_of<T, Y, false>(p);
  }

  static void add_to(float* sum, F x) { V::store(sum, V::add(V::load(sum), x)); }
  static void add_product(float* sum, F x, F y) { V::store(sum, V::multiply_add(x, y, V::load(sum))); }

  template <class T, bool kWrites, bool kProducts>
  static void gradients_of(const SumBlock& p) {
    auto* g = static_cast<T*>(p.g);
    const auto* other = static_cast<const T*>(p.other);
    const auto* input = static_cast<const T*>(p.activation_input);
    const auto* z = static_cast<const T*>(p.z);
    int64_t c = 0;
    for_each_vector(p.count, [&](int64_t i, int64_t count) {
      F x = load_some(g + i, count);
      if constexpr (kWrites) {
        if (other != nullptr) x = V::add(x, load_some(other + i, count));
        if (p.mask != nullptr) x = V::keep(V::from_bits(p.mask[i / kLanes]), x);
        if (p.where != nullptr) {
          const M is_cut = V::equal(load_places(p.where + i, count), V::set_int(kNowhere));
          x = V::choose(is_cut, V::set(0.0F), x);
        }
        if (input != nullptr) x = V::mul(x, derivative(p.activation, load_some(input + i, count)));
        x = rounded<T>(x);
        store_some(g + i, x, count);
      }
      add_to(p.sums + c, x);
      if constexpr (kProducts) {
        prefetch(z + i);
        add_product(p.products + c, x, V::sub(load_some(z + i, count), V::load(p.shift + c)));
      }
      c = c + kLanes == p.width ? 0 : c + kLanes;
    });
  }

  template <class T>
  static void gradients(const SumBlock& p) {
    const bool writes =
        p.other != nullptr || p.mask != nullptr || p.where != nullptr || p.activation_input != nullptr;
    if (p.z == nullptr) return writes ? gradients_of<T, true, false>(p) : gradients_of<T, false, false>(p);
    return writes ? gradients_of<T, true, true>(p) : gradients_of<T, false, true>(p);
  }

  template <class T, class Y, bool kAffine>
  static void max_pool_of(const PoolWindow& window, void* to, uint8_t* where) {
    auto* y = static_cast<Y*>(to);
    auto* best_x = static_cast<T*>(window.best);
    for_each_vector(window.channels, [&](int64_t c, int64_t count) {
      F scale = V::set(0.0F), shift = scale;
      if constexpr (kAffine) {
        scale = load_some(window.scale + c, count);
        shift = load_some(window.shift + c, count);
      }
      const auto load = [&](int64_t tap) {
        return load_some(static_cast<const T*>(window.taps[tap]) + c, count);
      };
      const auto value_of = [&](F x) {
        if constexpr (kAffine) return V::multiply_add(x, scale, shift);
        return x;
      };
      F from = load(0);
      F best = value_of(from);
      I place = V::set_int(window.places[0]);
      for (int64_t tap = 1; tap < window.count; ++tap) {
        const F x = load(tap), value = value_of(x);
        const M better = V::either(V::less(best, value), V::is_nan(best));
        best = V::choose(better, value, best);
        from = V::choose(better, x, from);
        place = V::choose(better, V::set_int(window.places[tap]), place);
      }
      if (window.activation != Activation::kNone) {
        const M passes = clamp(window.activation, best);
        place = V::choose(passes, place, V::set_int(kNowhere));
      }
      store_some(y + c, rounded<Y>(best), count);
      store_some(where + c, place, count);
      if (best_x != nullptr) store_some(best_x + c, from, count);
    });
  }

  template <class T, class Y>
  static void max_pool(const PoolWindow& window, void* y, uint8_t* where) {
    if (window.scale != nullptr) {
      max_pool_of<T, Y, true>(window, y, where);
    } else {
      max_pool_of<T, Y, false>(window, y, where);
    }
  }

  template <class T>
  static void max_pool_backward(const PoolWindow& window, const uint8_t* const* wheres, void* to) {
    auto* dx = static_cast<T*>(to);
    const auto part = [&](int64_t tap, int64_t c, int64_t count) {
      const M mine = V::equal(load_places(wheres[tap] + c, count), V::set_int(window.places[tap]));
      return V::keep(mine, load_some(static_cast<const T*>(window.taps[tap]) + c, count));
    };
    if (window.count == 1) {  // windows that do not overlap: nothing to add or to round
      return for_each_vector(window.channels,
                             [&](int64_t c, int64_t count) { store_some(dx + c, part(0, c, count), count); });
    }
    for_each_vector(window.channels, [&](int64_t c, int64_t count) {
      F sum = V::set(0.0F);
      for (int64_t tap = 0; tap < window.count; ++tap) sum = V::add(sum, part(tap, c, count));
      store_some(dx + c, rounded<T>(sum), count);
    });
  }

  template <class T, class Y>
  static void sum_window(const SumWindow& p, void* y) {
    for_each_vector(p.channels, [&](int64_t c, int64_t count) {
      const T* line = static_cast<const T*>(p.x) + c;
      F sum = V::set(0.0F);
      for (int64_t row = 0; row < p.rows; ++row, line += p.row_stride) {
        const T* x = line;
        for (int64_t column = 0; column < p.columns; ++column, x += p.column_stride) {
          sum = V::add(sum, load_some(x, count));
        }
      }
      store_some(static_cast<Y*>(y) + c, rounded<Y>(V::mul(sum, V::set(p.factor))), count);
    });
  }

  static void sgd(const SgdUpdate& p) {
    const F rate = V::set(-p.learning_rate), factor = V::set(p.momentum_factor),
            share = V::set(1.0F - p.dampening), decay = V::set(p.weight_decay);
    for_each_vector(p.count, [&](int64_t i, int64_t count) {
      const F w = load_some(p.weight + i, count);
      F g = V::multiply_add(decay, w, load_some(p.gradient + i, count));
      if (p.momentum != nullptr) {
        F m = g;
        if (!p.is_first) m = V::multiply_add(factor, load_some(p.momentum + i, count), V::mul(share, g));
        store_some(p.momentum + i, m, count);
        g = p.nesterov ? V::multiply_add(factor, m, g) : m;
      }
      store_some(p.weight + i, V::multiply_add(rate, g, w), count);
    });
  }

  static constexpr FuseKernels kernels() {
    return {{affine<float, float>, affine<BFloat16, BFloat16>},
            {affine<float, float>, affine<BFloat16, float>},
            {gradients<float>, gradients<BFloat16>},
            {max_pool<float, float>, max_pool<BFloat16, BFloat16>},
            {max_pool<float, float>, max_pool<BFloat16, float>},
            {max_pool_backward<float>, max_pool_backward<BFloat16>},
            {sum_window<float, float>, sum_window<BFloat16, BFloat16>},
            {sum_window<float, float>, sum_window<BFloat16, float>},
            sgd};
  }
};

}  // namespace bitdial::kernels
