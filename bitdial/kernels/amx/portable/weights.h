#pragma once

#include <cstdint>
#include <vector>

#include "bitdial/kernels/amx/portable/product.h"
#include "bitdial/kernels/workspace.h"

/// Operand B of forward and data gradient: weights as tiles, [plane][32 columns][step][2][1024].
namespace bitdial::kernels::amx {

/// Taps of one kernel row that a tile row reads as one run of bytes: `taps * depth` of them from tap `first`
/// on.
struct TapRun {
  int64_t first = 0, taps = 1;
  int64_t steps = 1;  ///< 64 bytes each; the weights behind the last tap are zero
};

/// One run per tap, or one per sequence of neighbouring taps.
std::vector<TapRun> plan_runs(const Axis& axis, int64_t depth, bool fuse_taps);

class PackedWeights {
 public:
  /// For one phase: `rows` taps times `runs` of `cols` taps.
  PackedWeights(const Product& product, const Axis& rows, const Axis& cols, const std::vector<TapRun>& runs,
                Workspace& memory);

  const uint8_t* block(int64_t column_block) const { return buffer_ + column_block * block_stride_; }
  int64_t plane() const { return plane_; }

 private:
  void pack_block(const Product& product, const Axis& rows, const Axis& cols, const std::vector<TapRun>& runs,
                  int64_t block) const;

  int64_t block_stride_, plane_;
  uint8_t* buffer_;
};

}  // namespace bitdial::kernels::amx
