#pragma once

#include <cstdint>
#include <span>

#include "bitdial/kernels/quantize.h"

/// The update of a weight by SGD, with what the next step asks of the weight gathered in the same pass.
namespace bitdial::kernels {

/// g' = g + weight_decay * w; m = momentum_factor * m + (1 - dampening) * g', or m = g' at the first update;
/// w -= learning_rate * (nesterov ? g' + momentum_factor * m : m). float32, the rules of torch.optim.SGD.
struct SgdUpdate {
  int64_t count = 0;
  float* weight = nullptr;
  const float* gradient = nullptr;  ///< in the memory order of the weight
  float* momentum = nullptr;        ///< null: none, the factor is 0
  float learning_rate = 0.0F;
  float momentum_factor = 0.0F;
  float dampening = 0.0F;
  float weight_decay = 0.0F;
  bool nesterov = false;
  bool is_first = false;
};

/// Returns the range of the new weight; both members NaN if an element, and so its gradient, is not finite.
Range update(const SgdUpdate& update);

/// The same, and the codes and statistics that quantize() would give for the new weight.
QuantizeStatistics update_and_quantize(const SgdUpdate& update, const TensorShape& shape,
                                       const Format& format, std::span<const QuantParams> params,
                                       RandomKey key, void* codes);
/// The same, and the codes in the layouts in which the next step reads them.
QuantizeStatistics update_and_quantize(const SgdUpdate& update, const TensorShape& shape,
                                       const Format& format, std::span<const QuantParams> params,
                                       RandomKey key, void* codes, const CodePacking& packing);

}  // namespace bitdial::kernels
