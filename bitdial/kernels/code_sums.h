#pragma once

#include <cstdint>
#include <vector>

#include "bitdial/kernels/conv2d.h"

/// Sums of plain codes, for the corrections that zero codes and real-valued offsets need.
namespace bitdial::kernels {

/// The sum of `count` codes from `index` on.
int64_t sum_codes(const Operand& operand, int64_t index, int64_t count);

/// sums[i] += code i of the `count` codes from `index` on.
void add_codes(const Operand& operand, int64_t index, int64_t count, int64_t* sums);

/// Sums over the images of an activation tensor: [pixel][channel], for `channels` of each pixel's
/// `pixel_stride` codes from channel `first` on.
std::vector<int64_t> sum_images(const Operand& operand, int64_t batch, int64_t pixels, int64_t pixel_stride,
                                int64_t first, int64_t channels);

}  // namespace bitdial::kernels
