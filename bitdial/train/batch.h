#pragma once

#include <torch/torch.h>

#include "bitdial/data/loader.h"

namespace bitdial::train {

struct BatchTensors {
  torch::Tensor images;  ///< [N, C, H, W], channels_last
  torch::Tensor labels;  ///< [N] int64
};

/// Views of the batch's memory: valid as long as the batch.
inline BatchTensors tensors_of(data::Batch& batch, const data::ImageShape& shape) {
  const auto nhwc =
      torch::from_blob(batch.images.data(), {batch.size, shape.height, shape.width, shape.channels});
  return {nhwc.permute({0, 3, 1, 2}), torch::from_blob(batch.labels.data(), {batch.size}, torch::kInt64)};
}

}  // namespace bitdial::train
