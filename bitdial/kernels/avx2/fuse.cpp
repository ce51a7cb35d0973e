#include "bitdial/kernels/avx2/lanes.h"
#include "bitdial/kernels/fuse_vector.h"

namespace bitdial::kernels::avx2 {

const FuseKernels kFuse = VectorFuse<Lanes>::kernels();

}  // namespace bitdial::kernels::avx2
