#pragma once

#include "bitdial/kernels/amx/block.h"
#include "bitdial/kernels/conv2d.h"

/// The three convolutions as plans, packing and loops over blocks; independent of the tiles' implementation.
namespace bitdial::kernels::amx {

extern const BlockKernels kHardwareBlocks, kTwinAvx512Blocks, kTwinBlocks;

void forward(const BlockKernels& kernels, const ConvShape& shape, const Operand& x, const Operand& w,
             const float* bias, const Output& y);
void backward_data(const BlockKernels& kernels, const ConvShape& shape, const Operand& dy, const Operand& w,
                   const Output& dx);
void backward_weight(const BlockKernels& kernels, const ConvShape& shape, const Operand& x, const Operand& dy,
                     float* dw);

/// Configures this thread's tiles for the lifetime of the object.
class TileScope {
 public:
  explicit TileScope(const BlockKernels& kernels) : kernels_(kernels) { kernels_.configure(); }
  ~TileScope() { kernels_.release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

 private:
  const BlockKernels& kernels_;
};

}  // namespace bitdial::kernels::amx
