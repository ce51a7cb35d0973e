#include "bitdial/kernels/avx512vnni/lanes.h"
#include "bitdial/kernels/quantize_vector.h"

namespace bitdial::kernels::avx512vnni {

const QuantizeKernels kQuantize = VectorQuantize<Lanes>::kernels();

}  // namespace bitdial::kernels::avx512vnni
