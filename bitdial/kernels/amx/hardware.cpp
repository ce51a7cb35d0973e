// AMX tiles, and the twin under the same flags. This file contains no function that another file could share:
// it is compiled for CPUs with AMX.
#include "bitdial/kernels/amx/block_kernels.h"
#include "bitdial/kernels/amx/portable/drivers.h"
#include "bitdial/kernels/amx/tile.h"
#include "bitdial/kernels/amx/tile_twin.h"

namespace bitdial::kernels::amx {

const BlockKernels kHardwareBlocks = kBlockKernels<HardwareTile>;
const BlockKernels kTwinAvx512Blocks = kBlockKernels<TwinTile>;

}  // namespace bitdial::kernels::amx
