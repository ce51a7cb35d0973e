#pragma once

/// Reference loops: an instruction set's dot-product instruction with operands from the L1 cache, one thread.
/// Each call runs the instruction for a fraction of a millisecond and returns the multiplications and
/// additions that it did. Null where the instruction does not exist for the target of the build.
namespace bitdial::kernels {

using PeakLoop = double (*)();

namespace scalar {
extern const PeakLoop kMultiplyAdd;
}
namespace avx2 {
extern const PeakLoop kVpmaddwd;
}
namespace avxvnni {
extern const PeakLoop kVpdpbusd, kVpdpwssd;
}
namespace avx512vnni {
extern const PeakLoop kVpdpbusd, kVpdpwssd;
}
namespace amx {
extern const PeakLoop kTdpbssd;
}

}  // namespace bitdial::kernels
