#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "bitdial/cost/kernel_table.h"
#include "bitdial/models/zoo.h"
#include "bitdial/train/timings.h"

/// What a training step of a network costs on this machine, before it is run.
namespace bitdial::train {

inline constexpr std::array<GemmArithmetic, 4> kPlanned{GemmArithmetic::kInt8, GemmArithmetic::kInt16,
                                                        GemmArithmetic::kBFloat16, GemmArithmetic::kFloat32};

struct GemmPlan {
  Gemm gemm = Gemm::kFprop;
  std::array<double, kPlanned.size()> seconds{};  ///< in the order of kPlanned
  GemmArithmetic choice = GemmArithmetic::kInt8;
};

struct LayerPlan {
  std::string name, kind;
  kernels::ConvShape shape;
  int64_t macs = 0;             ///< of one GEMM, the whole batch
  int64_t bytes = 0;            ///< read and written by its GEMMs in the chosen arithmetic, each tensor once
  std::vector<GemmPlan> gemms;  ///< the first layer has no BPROP
  double seconds = 0.0;         ///< chosen GEMMs and the passes that make their operands
};

struct StepPlan {
  std::vector<LayerPlan> layers;
  double layer_seconds = 0.0;
  double other_seconds = 0.0;  ///< normalisation, activations, pooling, adds, optimiser: by memory traffic
  double step_seconds() const { return layer_seconds + other_seconds; }
  /// All GEMMs and passes on one arithmetic, in the order of kPlanned; without the other parts of a step.
  std::array<double, kPlanned.size()> uniform_seconds{};
  int64_t uncertain = 0;  ///< times that were measured on contended cores
};

/// Plans a step of the network with this layer table. The choice is that of policy `auto` where 8 bits
/// suffice; whether they do, only training shows.
StepPlan plan_step(std::span<const models::LayerRow> rows, int64_t batch, cost::KernelTable& table,
                   const MeasureProgress& progress = {});

/// An object: model, batch, machine, layers (name, kind, problem, macs, bytes, gemms with ms per arithmetic
/// and choice, ms), step_ms and its parts.
nlohmann::ordered_json to_json(const StepPlan& plan, const std::string& model, int64_t batch,
                               const cost::Machine& machine);

}  // namespace bitdial::train
