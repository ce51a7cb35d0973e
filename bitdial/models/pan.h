#pragma once

#include <vector>

#include "bitdial/models/zoo.h"

namespace bitdial::models {

/// PAN (Zhao et al. 2020), super-resolution by 4, as LDP trains it: 40 and 24 channels, 16 SCPA blocks
/// (recipes.md, section 1). Options::image_size is the edge of the low-resolution image (64 where absent; 1
/// gives the counts per pixel); Options::classes means nothing. LDP quantises what has the role kBody.
std::vector<LayerRow> pan_x4_table(const Options& options);

}  // namespace bitdial::models
