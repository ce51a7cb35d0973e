#pragma once

#include "bitdial/kernels/conv2d_kernels.h"
#include "bitdial/kernels/vector/problems.h"

/// The three convolutions in terms of an engine's two kernels, group by group.
namespace bitdial::kernels::vector {

/// The vector kernels of the active instruction set (AMX: AVX-512's), null if it has none.
const Engine* active_engine();

/// The two gathering directions, without operands; of a convolution with groups, one of them.
GatherProblem forward_gather(const ConvShape& shape);
GatherProblem backward_gather(const ConvShape& shape);
void forward(const Engine& engine, const ConvShape& shape, const Operand& x, const Operand& w,
             const float* bias, const Output& y);
void backward_data(const Engine& engine, const ConvShape& shape, const Operand& dy, const Operand& w,
                   const Output& dx);
/// A weight gradient, without operands; of a convolution with groups, one of them.
WeightGradientProblem weight_gradient(const ConvShape& shape);
void backward_weight(const Engine& engine, const ConvShape& shape, const Operand& x, const Operand& dy,
                     float* dw);

}  // namespace bitdial::kernels::vector

/// Null where the instruction set does not exist for the target of the build.
namespace bitdial::kernels::avx2 {
extern const vector::Engine* const kEngine;
}
namespace bitdial::kernels::avxvnni {
extern const vector::Engine* const kEngine;
}
namespace bitdial::kernels::avx512vnni {
extern const vector::Engine* const kEngine;
}
