#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "bitdial/kernels/sgd.h"

namespace bitdial::nn {

/// Updates weights while backward runs (Session::set_weight_updater): a stage hands over each gradient as
/// soon as it is known, so that it is read from the cache and then gone, and the pass that updates the weight
/// also writes its codes for the next step.
///
/// Whoever sets one promises that these weights change in no way that their version counters do not see
/// (Tensor::data()): the counters tell whether the codes are still good.
class WeightUpdater {
 public:
  virtual ~WeightUpdater() = default;
  /// The update of this weight, all but the gradient filled in. Nothing: its gradient goes to Tensor::grad.
  virtual std::optional<kernels::SgdUpdate> begin(const at::Tensor& weight) = 0;
  /// The weight was updated and has this range now, which is not finite if its gradient was not.
  virtual void end(const at::Tensor& weight, const Range& range) = 0;
};

}  // namespace bitdial::nn
