#include "bitdial/kernels/sgd.h"

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/fuse_kernels.h"

namespace bitdial::kernels {
namespace {

// Blocks are read after they are updated, in place.
ComputedTensor as_tensor(const SgdUpdate& u) {
  const auto run = fuse_kernels().sgd;
  require(u.momentum != nullptr || u.momentum_factor == 0.0F, "sgd", "momentum has no buffer");
  const auto compute = [&u, run](int64_t begin, int64_t end, void*) {
    SgdUpdate block = u;
    block.count = end - begin;
    block.weight += begin;
    block.gradient += begin;
    if (block.momentum != nullptr) block.momentum += begin;
    run(block);
  };
  return {.type = OutputType::kFloat32, .compute = compute, .values = u.weight};
}

void check(const SgdUpdate& u, const TensorShape& shape) {
  require(shape.elements() == u.count, "sgd", "the shape has {} elements, the update {}", shape.elements(),
          u.count);
}

}  // namespace

Range update(const SgdUpdate& u) {
  const PhaseScope phase(Phase::kOptimizer);
  return measure_range(as_tensor(u), u.count);
}

QuantizeStatistics update_and_quantize(const SgdUpdate& u, const TensorShape& shape, const Format& format,
                                       std::span<const QuantParams> params, RandomKey key, void* codes) {
  const PhaseScope phase(Phase::kOptimizer);
  check(u, shape);
  return quantize(as_tensor(u), shape, format, params, key, codes);
}

QuantizeStatistics update_and_quantize(const SgdUpdate& u, const TensorShape& shape, const Format& format,
                                       std::span<const QuantParams> params, RandomKey key, void* codes,
                                       const CodePacking& packing) {
  const PhaseScope phase(Phase::kOptimizer);
  check(u, shape);
  return quantize(as_tensor(u), shape, format, params, key, codes, packing);
}

}  // namespace bitdial::kernels
