#pragma once

/// What APT's formats could gain if GEMMs were all that a training step does (three of equal cost) and ran at
/// the throughput that a machine has for their operands: upper bounds, not measurements.
namespace bitdial::cost::apt {

/// Speedup over float32 on a CPU whose int8 has 4 times and int16 twice float32's throughput, with a share
/// `p` (0..1) of the backward work whose dY stays int8: 3 / (1/4 + 2 (p/4 + (1 - p)/2)).
/// Throws Error unless 0 <= p <= 1.
double cpu_speedup(double p);

/// Speedup over bfloat16 on a GPU whose int8 has twice bfloat16's throughput and that multiplies int16 as two
/// planes of int8: 3 / (1/2 + 2 (p/2 + (1 - p))).
double gpu_speedup(double p);

}  // namespace bitdial::cost::apt
