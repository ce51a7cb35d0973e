#include "bitdial/kernels/avx512vnni/lanes.h"
#include "bitdial/kernels/fuse_vector.h"

namespace bitdial::kernels::avx512vnni {

const FuseKernels kFuse = VectorFuse<Lanes>::kernels();

}  // namespace bitdial::kernels::avx512vnni
