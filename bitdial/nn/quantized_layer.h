#pragma once

#include <memory>
#include <utility>

#include "bitdial/core/policy.h"

namespace bitdial::nn {

class LayerBinding;

/// What a session looks for in a network: a layer with quantised GEMMs.
class QuantizedLayer {
 public:
  virtual ~QuantizedLayer() = default;
  /// Everything but the name and the place in the network.
  virtual LayerInfo describe() const = 0;
  void bind(std::shared_ptr<LayerBinding> binding) { binding_ = std::move(binding); }
  const std::shared_ptr<LayerBinding>& binding() const { return binding_; }

 protected:
  QuantizedLayer() = default;
  // A copy of a layer (clone) belongs to no session.
  QuantizedLayer(const QuantizedLayer&) {}
  QuantizedLayer& operator=(const QuantizedLayer&) { return *this; }

  std::shared_ptr<LayerBinding> binding_;
};

}  // namespace bitdial::nn
