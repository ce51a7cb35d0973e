#pragma once

#include "bitdial/kernels/conv2d.h"

/// The sums of Output::sums by a second pass, for kernels whose epilogue does not gather them.
namespace bitdial::kernels {

/// Of `pixels` * `channels` dense values of y, which are already stored. y.sums is not null.
void sum_channels(const Output& y, int64_t pixels, int64_t channels);

/// sums[0, channels) = the sum over parts, in their order, of partial[part][sums, sums of squares][stride].
void add_partial_sums(const ChannelSums& sums, const double* partial, int64_t parts, int64_t channels,
                      int64_t stride);

}  // namespace bitdial::kernels
