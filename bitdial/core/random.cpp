#include "bitdial/core/random.h"

namespace bitdial {
namespace {

// One step of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64 bits.
uint64_t splitmix64(uint64_t z) {
  z += 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

uint64_t pair(uint32_t high, uint32_t low) { return (uint64_t{high} << 32) | low; }

}  // namespace

RandomKey random_key(const RandomCounters& counters) {
  uint64_t state = splitmix64(counters.seed);
  state = splitmix64(state ^ counters.step);
  state = splitmix64(state ^ pair(counters.micro_batch, counters.layer));
  state = splitmix64(state ^ pair(counters.tensor, counters.call));
  return {.a = static_cast<uint32_t>(state), .b = static_cast<uint32_t>(state >> 32)};
}

}  // namespace bitdial
