#include "bitdial/ops/column_sums.h"

#include <algorithm>
#include <vector>

#include "bitdial/core/parallel.h"

namespace bitdial::ops {
namespace {

constexpr int64_t kBlockRows = 512;

}  // namespace

void column_sums(const float* x, int64_t rows, int64_t columns, double* sums) {
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  std::vector<double> partial(static_cast<size_t>(blocks * columns), 0.0);
  parallel_for(blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      double* sum = partial.data() + block * columns;
      const int64_t end = std::min(rows, (block + 1) * kBlockRows);
      for (int64_t row = block * kBlockRows; row < end; ++row) {
        for (int64_t c = 0; c < columns; ++c) sum[c] += static_cast<double>(x[row * columns + c]);
      }
    }
  });
  std::fill_n(sums, columns, 0.0);
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t c = 0; c < columns; ++c) sums[c] += partial[static_cast<size_t>(block * columns + c)];
  }
}

}  // namespace bitdial::ops
