#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bitdial/cost/bit_operations.h"
#include "bitdial/cost/network_cost.h"
#include "bitdial/models/zoo.h"

/// The analytic cost of a training, before it is run or from what it left behind (docs/cost.md).
namespace bitdial::train {

struct CostRequest {
  std::string model;
  models::Options options;
  /// "cpt", "static", "sbm", "random", "pfq", "schedule", "float32", "bf16"; an argument may follow a
  /// colon instead of standing in `bits`: "static:8/8/16", "static:shared:6/8", "cpt:3-8/8".
  std::string policy = "static";
  /// cpt "3-8/8" (Bmin-Bmax/gradient); static "8/8/16" (W/A/G, every layer) or "8/8" (F/G, shared quantiser);
  /// random "4,6,8/8" or "4,6,8/same"; pfq "3,4,6,8/6,6,8,8"; schedule: a file, or one of LDP's tables.
  std::string bits;
  int64_t iterations = cost::kPublishedIterations;
  int64_t batch = cost::kPublishedBatch;
  int64_t cycles = 32;            ///< cpt
  std::vector<int64_t> switches;  ///< pfq: the first iteration of each later stage
};

/// A training, or a part of one, in which no precision changes.
struct CostStretch {
  int64_t iterations = 0;
  std::vector<LayerBits> bits;  ///< one per layer
};

struct CostEstimate {
  std::string model, policy, bits;
  int64_t batch = 1;
  cost::NetworkCharge network;
  std::vector<LayerBits> last_bits;  ///< at the end
  cost::CostTotals totals;
};

/// Throws Error for a policy that decides from data, whose cost only a run can tell, and for bits that the
/// policy cannot have.
CostEstimate estimate_cost(const CostRequest& request);

enum class CostSource : uint8_t {
  kCounted,    ///< the sums in the run's newest checkpoint
  kDecisions,  ///< precision.jsonl, from one line of an operand to the next
};

/// What a run has cost up to its newest checkpoint. kDecisions needs no sums, but does not know what a gate
/// chose between two lines of the log.
CostEstimate cost_of_run(const std::filesystem::path& run, CostSource source = CostSource::kCounted);

/// Keys: model, policy, bits, iterations, batch, convention, macs, m_star, gbitops, ratio_fw8bw8,
/// ratio_float32, gbitops_fw8bw8, mean_bits and mean_bits_by_macs (w, x, dy), size_ratio, memory_ratio,
/// training_speedup_adapt, inference_ratio_fw8, bytes (weights, activations; float32 beside them).
nlohmann::ordered_json to_json(const CostEstimate& estimate, cost::Convention convention);

/// Bit operations of FPROP at the end relative to 8 bits everywhere; layers in float32 count at 8 bits, as in
/// LDP's inference cost.
double inference_ratio(const CostEstimate& estimate);

}  // namespace bitdial::train
