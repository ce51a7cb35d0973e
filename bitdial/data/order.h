#pragma once

#include <cstdint>
#include <vector>

#include "bitdial/core/random.h"

namespace bitdial::data {

/// The streams of random bits that loading uses, kept apart from those of quantisation by their layer number.
RandomKey order_key(uint64_t seed, int64_t epoch);           ///< the order of an epoch
RandomKey split_key(uint64_t seed, uint32_t part);           ///< splits and folds
RandomKey shapes_key(uint64_t seed, int64_t i, bool train);  ///< one image of `shapes`

/// Fisher-Yates: for i = size - 1 down to 1, swap element i with element floor(u * (i + 1) / 2^64), where u
/// is made of draws 2i and 2i + 1 of the stream.
void shuffle(std::vector<int64_t>& values, RandomKey key);

}  // namespace bitdial::data
