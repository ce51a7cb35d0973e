#include "bitdial/data/order.h"

#include <numeric>
#include <utility>

#include "bitdial/data/augmentation.h"
#include "bitdial/data/loader.h"

namespace bitdial::data {
namespace {

constexpr uint32_t kLoading = 0xFFFFFFFFU;  // no network has this layer number

enum Stream : uint32_t { kOrder, kAugmentation, kSplit, kShapesTrain, kShapesTest };

RandomKey stream_key(uint64_t seed, uint64_t step, uint32_t part, Stream stream) {
  return random_key(
      {.seed = seed, .step = step, .micro_batch = part, .layer = kLoading, .tensor = stream, .call = 0});
}

// floor(u * bound / 2^64) for 64 random bits u; its bias, below bound / 2^64, is beyond any measurement.
uint64_t below(uint64_t bound, RandomKey key, uint64_t draw) {
  const uint64_t high = random_bits(key, 2 * draw);
  const uint64_t low = random_bits(key, 2 * draw + 1);
  // bound < 2^32 (images): the product's upper half from two 32-bit halves.
  return (high * bound + (low * bound >> 32)) >> 32;
}

}  // namespace

RandomKey order_key(uint64_t seed, int64_t epoch) {
  return stream_key(seed, static_cast<uint64_t>(epoch), 0, kOrder);
}

RandomKey augmentation_key(uint64_t seed, int64_t epoch) {
  return stream_key(seed, static_cast<uint64_t>(epoch), 0, kAugmentation);
}

RandomKey split_key(uint64_t seed, uint32_t part) { return stream_key(seed, 0, part, kSplit); }

RandomKey shapes_key(uint64_t seed, int64_t i, bool train) {
  return stream_key(seed, static_cast<uint64_t>(i), 0, train ? kShapesTrain : kShapesTest);
}

void shuffle(std::vector<int64_t>& values, RandomKey key) {
  for (size_t i = values.size(); i-- > 1;) std::swap(values[i], values[below(i + 1, key, i)]);
}

std::vector<int64_t> epoch_order(int64_t size, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  shuffle(order, order_key(seed, epoch));
  return order;
}

}  // namespace bitdial::data
