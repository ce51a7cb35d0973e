#pragma once

#include <ostream>

#include "bitdial/kernels/isa.h"

namespace bitdial::kernels {

/// How the test runner lists a parameter.
inline void PrintTo(Isa isa, std::ostream* stream) { *stream << to_string(isa); }

}  // namespace bitdial::kernels
