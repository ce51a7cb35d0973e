#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bitdial/train/step_profile.h"

/// Times whole training steps of LibTorch and of policies side by side (docs/performance.md says how and
/// why).
namespace bitdial::train {

struct StepBenchmarkOptions {
  std::string model = "resnet18-cifar";
  int64_t batch = 64;
  int64_t classes = 10;
  std::vector<std::string> policies = {"static"};
  bool has_bf16 = true;           ///< time PyTorch bf16 autocast too: seconds a step where CPUs emulate it
  int64_t threads = 0;            ///< 0: as many as the process may use
  bool simulated = false;         ///< arithmetic of the policies: integer, or simulated
  int64_t steps_per_epoch = 391;  ///< weighs a policy's measuring steps: one in so many
  int kept = 20;                  ///< repetitions on an uncontended core that every row needs
  bool trusts_timings = false;    ///< kernel times that were taken beside other work serve, too
  bool profiles = false;          ///< says of every policy where its time goes, in steps of their own
  double time_limit_s = 900;      ///< stops adding repetitions after this time; ratios may then be refused
};

struct StepRow {
  std::string name;  ///< "pytorch-float32", "pytorch-bf16", then the policies
  /// Median over kept repetitions; a policy's measuring steps weighted as over an epoch.
  double median_ms = 0;
  std::optional<double> measuring_ms;  ///< a step on which the policy measures, where it differs
  int64_t kept = 0;                    ///< repetitions on an uncontended core
  double uncontended = 0;              ///< their share of all
  std::optional<double> speedup_vs_float32, speedup_vs_bf16;  ///< absent when too few repetitions were kept
  int64_t rounds = 0;                                         ///< all repetitions
  /// Medians of the ratio within each round, kept or not: an indication where other work never leaves the
  /// cores. Both steps of a round meet other work, not the same.
  std::optional<double> paired_vs_float32, paired_vs_bf16;
  int64_t peak_bytes =
      0;  ///< of a process that runs only this row, less what it used before building the model
  /// Of a policy: share of the step that its decisions take, with what is measured for them alone; measuring
  /// steps weighted as over an epoch.
  std::optional<double> policy_share;
  std::optional<StepProfile> profile;  ///< of a policy, where asked for
  std::string memory_format;  ///< "channels_last" or "contiguous": the faster of both for LibTorch's rows
};

/// Every policy that quantises, needs nothing beside its name and suits the network; `left_out` gets the
/// reasons of the others, e.g. that the network has none of the layers that a policy is about.
std::vector<std::string> applicable_policies(const StepBenchmarkOptions& options,
                                             std::vector<std::string>& left_out);

/// Rows in the order of the names. `progress(done, total)` is called after every round. Throws Error for an
/// unknown model or policy.
std::vector<StepRow> benchmark_steps(const StepBenchmarkOptions& options,
                                     const std::function<void(double)>& progress);

/// Runs a few steps of one row in this process and returns its peak memory in bytes above what the process
/// used before. Call in a fresh process: the kernel's high-water mark never falls.
int64_t measure_peak_bytes(const StepBenchmarkOptions& options, const std::string& row);

nlohmann::json to_json_array(const std::vector<StepRow>& rows);

}  // namespace bitdial::train
