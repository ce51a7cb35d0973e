#include "bitdial/kernels/amx/amx.h"
#include "bitdial/kernels/amx/portable/drivers.h"

namespace bitdial::kernels::amx {
namespace {

template <const BlockKernels& kKernels>
constexpr Conv2dKernels kTable = {
    [](const ConvShape& shape, const Operand& x, const Operand& w, const float* bias, const Output& y) {
      amx::forward(kKernels, shape, x, w, bias, y);
    },
    [](const ConvShape& shape, const Operand& dy, const Operand& w, const Output& dx) {
      amx::backward_data(kKernels, shape, dy, w, dx);
    },
    [](const ConvShape& shape, const Operand& x, const Operand& dy, float* dw) {
      amx::backward_weight(kKernels, shape, x, dy, dw);
    }};

}  // namespace

const Conv2dKernels kConv2d = kTable<kHardwareBlocks>;
const Conv2dKernels twin::kConv2d = kTable<kTwinBlocks>;
const Conv2dKernels twin_avx512::kConv2d = kTable<kTwinAvx512Blocks>;

}  // namespace bitdial::kernels::amx
