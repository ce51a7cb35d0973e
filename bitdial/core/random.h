#pragma once

#include <cstdint>

namespace bitdial {

/// Names one stream of random bits. Bits are counter-based: element i of a stream depends on the key and i
/// alone, so a result is the same for any thread count and memory layout, and resuming a run needs only the
/// counters. i is the element's logical index (NCHW order for activations, KCRS for weights), whatever the
/// memory layout.
struct RandomKey {
  uint32_t a = 0;
  uint32_t b = 0;

  bool operator==(const RandomKey&) const = default;
};

/// The counters that a stream is made from.
struct RandomCounters {
  uint64_t seed = 0;
  uint64_t step = 0;
  uint32_t micro_batch = 0;
  uint32_t layer = 0;
  uint32_t tensor = 0;  ///< TensorRole
  uint32_t call = 0;    ///< how often this tensor was quantised in this step before (shared layers)
};

/// Mixes the counters into a key (splitmix64 over all of them).
RandomKey random_key(const RandomCounters& counters);

/// 32 random bits for element `index`. Two rounds of a multiply-xorshift hash keyed before and between the
/// rounds: a handful of 32-bit vector instructions, so stochastic rounding stays bound by memory.
inline uint32_t random_bits(RandomKey key, uint64_t index) {
  uint32_t x = static_cast<uint32_t>(index) ^ key.a ^ (static_cast<uint32_t>(index >> 32) * 0x9E3779B9U);
  x ^= x >> 16;
  x *= 0x7FEB352DU;
  x ^= key.b;
  x ^= x >> 15;
  x *= 0x846CA68BU;
  x ^= x >> 16;
  return x;
}

/// Uniform in [0, 1), a multiple of 2^-24.
inline float random_uniform(RandomKey key, uint64_t index) {
  return static_cast<float>(random_bits(key, index) >> 8) * 0x1p-24F;
}

}  // namespace bitdial
