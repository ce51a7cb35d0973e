#pragma once

#include <memory>

namespace bitdial::nn {

class SessionCore;

/// While one exists, convolutions and matrix products of this thread with a converted layer's weight run in
/// that layer's precision, and normalisations and average pools have their results quantised where the policy
/// asks for it. Nests; the innermost counts. Costs nothing where no layer was converted and nobody asks.
class Interception {
 public:
  explicit Interception(const std::shared_ptr<SessionCore>& session);
  ~Interception();
  Interception(const Interception&) = delete;
  Interception& operator=(const Interception&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitdial::nn
