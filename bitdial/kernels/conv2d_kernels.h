#pragma once

#include "bitdial/kernels/conv2d.h"
#include "bitdial/kernels/isa.h"

/// The convolutions of one instruction set each, behind the checks and the dispatch of conv2d.cpp. Arguments
/// are trusted; results obey the contract of conv2d.h.
namespace bitdial::kernels {

struct Conv2dKernels {
  void (*forward)(const ConvShape& shape, const Operand& x, const Operand& w, const float* bias,
                  const Output& y);
  void (*backward_data)(const ConvShape& shape, const Operand& dy, const Operand& w, const Output& dx);
  void (*backward_weight)(const ConvShape& shape, const Operand& x, const Operand& dy, float* dw);
  bool sums_channels = false;  ///< forward computes Output::sums itself
};

namespace vector {
struct Engine;
}

/// The vector kernels that run a convolution on `isa`; null where others do (depth-wise, AMX, scalar).
const vector::Engine* conv2d_engine(Isa isa, const ConvShape& shape);

namespace scalar {
extern const Conv2dKernels kConv2d;
}

/// One code of an operand, for loops that are not hot.
int64_t code_at(const Operand& operand, int64_t index);

/// The number of bytes of one code.
inline int64_t code_size(CodeType type) { return type == CodeType::kS8 || type == CodeType::kU8 ? 1 : 2; }

}  // namespace bitdial::kernels
