#pragma once

#include "bitdial/kernels/vector/channel_sums.h"
#include "bitdial/kernels/vector/depthwise_gradient.h"
#include "bitdial/kernels/vector/depthwise_rows.h"
#include "bitdial/kernels/vector/gather.h"
#include "bitdial/kernels/vector/weight_gradient.h"

namespace bitdial::kernels::vector {
namespace {

/// The kernels over one `Isa` type (tile.h).
template <class Isa>
constexpr Engine kEngineOf = {
    [](const GatherProblem& problem) { Gather<Isa>(problem).run(); },
    [](const WeightGradientProblem& problem) { WeightGradient<Isa>(problem).run(); },
    sum_pixels<Isa, float>,
    sum_pixels<Isa, uint16_t>,
    [](const DepthwiseRows& problem) { DepthwiseRowKernel<Isa>(problem).run(); },
    [](const DepthwiseGradient& problem) { DepthwiseGradientKernel<Isa>(problem).run(); }};

}  // namespace
}  // namespace bitdial::kernels::vector
