#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/core/profile.h"

/// Where the time of training steps went, by layer and phase.
namespace bitdial::train {

struct ProfileRow {
  std::string layer;                 ///< empty: outside of all layers
  std::array<double, kPhases> ms{};  ///< mean of a step, by phase
  std::optional<double> gops;        ///< operations/s of the layer's GEMMs, 1e9
  std::optional<double> share;       ///< of the reference loop on all threads
  double total_ms() const;
};

struct StepProfile {
  std::vector<ProfileRow> rows;  ///< layers in order, then what is outside of them
  ProfileRow sum;
  int64_t steps = 0;
  double peak_gops = 0.0;  ///< of the reference loop: 8-bit products on all threads
};

/// `images`: of all `steps` steps together; `layers`: those of the session, with the MACs of a sample. Runs
/// the reference loop for some milliseconds.
StepProfile summarise(const Profile& profile, std::span<const LayerInfo> layers, int64_t steps,
                      int64_t images);

/// {"steps", "peak_gops", "layers": [{"layer", "gops", "share", "ms": {phase: ms}}]}.
nlohmann::ordered_json to_json(const StepProfile& profile);

}  // namespace bitdial::train
