#include "bitdial/kernels/avx2/lanes.h"
#include "bitdial/kernels/quantize_vector.h"

namespace bitdial::kernels::avx2 {

const QuantizeKernels kQuantize = VectorQuantize<Lanes>::kernels();

}  // namespace bitdial::kernels::avx2
