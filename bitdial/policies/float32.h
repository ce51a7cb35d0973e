#pragma once

#include "bitdial/core/policy.h"

namespace bitdial::policies {

/// Quantises nothing: LibTorch's float32 kernels, the baseline of every comparison.
class Float32Policy : public Policy {
 public:
  std::string name() const override { return "float32"; }
  TensorPlan plan(TensorId, const StepInfo&, TensorProbe&) override { return {}; }
  Format evaluation_format(TensorId) const override { return Format::float32(); }
  bool quantizes() const override { return false; }
};

}  // namespace bitdial::policies
