#pragma once

#include <cstdint>

namespace bitdial::ops {

/// sums[c] = sum over r of x[r][c], in float64 over a partition that does not depend on the number of
/// threads.
void column_sums(const float* x, int64_t rows, int64_t columns, double* sums);

}  // namespace bitdial::ops
