#pragma once

#include "bitdial/policies/float32.h"

namespace bitdial::policies {

/// Quantises nothing; GEMMs run in bfloat16 by LibTorch's autocast, master weights stay float32.
class BFloat16Policy : public Float32Policy {
 public:
  std::string name() const override { return "bf16"; }
  FloatArithmetic float_arithmetic() const override { return FloatArithmetic::kBFloat16Autocast; }
};

}  // namespace bitdial::policies
