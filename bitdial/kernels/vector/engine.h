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
    [](const GatherProblem& problem, int64_t first, int64_t last, void* packed) {
      Workspace workspace;
      WeightPanels<Isa>(problem, workspace).pack_outputs(first, last, static_cast<int8_t*>(packed));
    },
    [](const WeightGradientProblem& problem) {
      Workspace workspace;
      return GradientPanels<Isa>(problem, workspace).bytes();
    },
    [](const WeightGradientProblem& problem, const GradientPart& part, void* packed) {
      Workspace workspace;
      GradientPanels<Isa>(problem, workspace).pack(part, packed);
    },
    [](const WeightGradientProblem& problem, const GradientPart& part, void* packed) {
      Workspace workspace;
      GradientPanels<Isa>(problem, workspace).sum(part, packed);
    },
    sum_pixels<Isa, float>,
    sum_pixels<Isa, uint16_t>,
    [](const DepthwiseRows& problem) { DepthwiseRowKernel<Isa>(problem).run(); },
    [](const DepthwiseGradient& problem) { DepthwiseGradientKernel<Isa>(problem).run(); }};

}  // namespace
}  // namespace bitdial::kernels::vector
