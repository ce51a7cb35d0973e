// The tile kernels in plain C++, for any CPU.
#include "bitdial/kernels/amx/block_kernels.h"
#include "bitdial/kernels/amx/portable/drivers.h"
#include "bitdial/kernels/amx/tile_twin.h"

namespace bitdial::kernels::amx {

const BlockKernels kTwinBlocks = kBlockKernels<TwinTile>;

}  // namespace bitdial::kernels::amx
