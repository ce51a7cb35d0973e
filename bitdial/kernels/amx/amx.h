#pragma once

#include "bitdial/kernels/conv2d_kernels.h"

/// Convolutions on AMX tiles, for every shape and every pair of code types. Contract: conv2d.h; design:
/// docs/kernels.md.
namespace bitdial::kernels::amx {

/// Needs a CPU with AMX.
extern const Conv2dKernels kConv2d;

/// The same drivers, packing and loops on tiles of plain C++: for tests, on any machine.
namespace twin {
extern const Conv2dKernels kConv2d;
}

/// The twin's tiles under the instruction-set flags of the hardware kernels: for tests, on machines with
/// AVX-512.
namespace twin_avx512 {
extern const Conv2dKernels kConv2d;
}

}  // namespace bitdial::kernels::amx
