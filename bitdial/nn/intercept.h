#pragma once

#include <memory>
#include <span>
#include <vector>

namespace bitdial::nn {

class LayerBinding;

/// While one exists, convolutions and matrix products of this thread with a converted layer's weight run in
/// that layer's precision. Nests; the innermost counts. Costs nothing where no layer was converted.
class Interception {
 public:
  explicit Interception(const std::vector<std::shared_ptr<LayerBinding>>& layers);
  ~Interception();
  Interception(const Interception&) = delete;
  Interception& operator=(const Interception&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitdial::nn
