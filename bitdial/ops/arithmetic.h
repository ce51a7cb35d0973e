#pragma once

#include <cstdint>

namespace bitdial::ops {

/// How the GEMMs of quantised operands are computed. Both share one definition: the exact product of the
/// quantised values. `kInteger`: bitdial's kernels wherever both operands have integer codes, float32
/// otherwise (CPU). `kSimulated`: LibTorch's float arithmetic on the quantised values, on any device and
/// float type.
enum class Arithmetic : uint8_t { kInteger, kSimulated };

/// What happens when an operand's scales vary along the axis that a GEMM reduces (per-channel W in BPROP,
/// per-sample X or dY in WTGRAD). `kRequantise`: that GEMM gets a second copy with one scale and the same
/// word length. `kFloat`: it multiplies the values of the first copy in float arithmetic (the papers' form).
enum class ReducedAxis : uint8_t { kRequantise, kFloat };

}  // namespace bitdial::ops
