#pragma once

#include <cstdint>

/// The loops of Range BN over float32 channels_last data: rows x channels, rows = B*H*W in their logical
/// order, so that chunk k is the rows k*rows/chunks .. (k+1)*rows/chunks - 1. Results do not depend on the
/// number of threads.
namespace bitdial::nn {

struct RangeNormShape {
  int64_t rows = 0;
  int64_t channels = 0;
  int64_t chunks = 16;
};

/// mean[c] (float64 sums over a fixed partition, rounded once); highest and lowest row of each chunk,
/// [chunks][channels], the first of equal ones.
void range_norm_statistics(const RangeNormShape& shape, const float* x, float* mean, int32_t* argmax,
                           int32_t* argmin);

/// y = (x - mean) * scale + shift, per channel.
void range_norm_apply(const RangeNormShape& shape, const float* x, const float* mean, const float* scale,
                      const float* shift, float* y);

/// sum_g[c] = sum g, sum_gx[c] = sum g * (x - mean), in float64 over a fixed partition.
void range_norm_backward_sums(const RangeNormShape& shape, const float* x, const float* mean, const float* g,
                              double* sum_g, double* sum_gx);

/// dx = (g - mean_g) * scale, per channel; then dx of each chunk's highest row grows by `kick`, of its lowest
/// shrinks.
void range_norm_backward_apply(const RangeNormShape& shape, const float* g, const float* mean_g,
                               const float* scale, const float* kick, const int32_t* argmax,
                               const int32_t* argmin, float* dx);

}  // namespace bitdial::nn
