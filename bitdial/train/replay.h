#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace bitdial::train {

/// A line of precision.jsonl that the policy would not write from the line's own numbers.
struct ReplayDifference {
  int64_t line = 0;  ///< of precision.jsonl, from 1
  int64_t step = 0;
  std::string layer, tensor;
  std::string what;  ///< "bits", "scale_log2", "fraction_length", or a key of the evidence
  std::string logged, replayed;
};

struct ReplayReport {
  std::string policy;
  int64_t decisions = 0;  ///< lines of precision.jsonl
  int64_t replayed = 0;   ///< of these, lines whose numbers suffice to decide again
  std::vector<ReplayDifference> differences;
};

/// Makes the policy of a run's recipe, without a network, and lets it decide again from the evidence of each
/// line (Policy::redecide). Throws Error when the run has no checkpoint, and when a line names a layer that
/// the network does not have.
ReplayReport replay_run(const std::filesystem::path& run);

}  // namespace bitdial::train
