#pragma once

#include <cstdint>
#include <memory>

#include "bitdial/data/image_file.h"
#include "bitdial/data/memory_dataset.h"

namespace bitdial::data {

inline constexpr int64_t kShapesTrainImages = 10000;
inline constexpr int64_t kShapesTestImages = 2000;

/// The procedural data set `shapes`: 32x32 RGB, ten classes of outlines. Position, size, rotation, colours of
/// outline and background, background clutter and noise are random, so that the class shows in nothing but
/// the outline. Image i has class i mod 10 and is a function of (seed, split, i) alone, whatever `images` is.
std::shared_ptr<const MemoryDataset> make_shapes(Split split, int64_t images, uint64_t seed);

/// A sheet of samples: one column per class, `rows` images each, `zoom` times enlarged.
Image sample_sheet(const Dataset& dataset, int64_t rows, int64_t zoom);

}  // namespace bitdial::data
