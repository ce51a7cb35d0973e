#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "bitdial/cost/network_cost.h"
#include "bitdial/nn/session.h"
#include "bitdial/train/run_directory.h"

namespace bitdial::train {

/// Follows which arithmetic each GEMM of a training runs in, and how many multiply-accumulates of all steps
/// each arithmetic had.
class GemmLog {
 public:
  /// The layers in the order of the session's.
  explicit GemmLog(const cost::NetworkCharge& network);

  /// After every step, in their order. Returns the GEMMs that run in another arithmetic than in the step
  /// before.
  std::vector<GemmLine> add(int64_t step, std::span<const nn::LayerArithmetic> layers);

  /// Percent of the multiply-accumulates of all steps up to now, by name ("int8").
  std::map<std::string, double> percent() const;

  /// Shares (0 .. 1) of the multiply-accumulates of a step as it runs now. A product with a 16-bit operand
  /// counts to int16.
  struct Shares {
    double int8 = 0.0, int16 = 0.0, floating = 0.0;
  };
  Shares now() const;

  /// load_state(state()) goes on exactly.
  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);

 private:
  struct Layer {
    std::string name;
    int64_t macs = 0;
    std::array<std::string, 3> arithmetic;  ///< by Gemm; empty: did not run yet
  };

  std::vector<Layer> layers_;
  std::map<std::string, double> macs_;  ///< of all steps
};

}  // namespace bitdial::train
