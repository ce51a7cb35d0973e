#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/policies/options.h"

namespace bitdial::policies {

/// A policy to copy (docs/policies.md walks through it): copy skeleton.h and skeleton.cpp, rename the class,
/// add one line to the table in registry.cpp. It is small but real, registered as "skeleton" and tested.
///
/// What it does: W and X have 8 bits. The gradient of a layer starts at 8 bits and gets 16 for good after an
/// epoch in which more than `zero_fraction` of its codes were 0, because small gradients then vanish.
class SkeletonPolicy : public Policy {
 public:
  /// Options come as a reader: it checks types and ranges, fills in defaults and writes the help text.
  explicit SkeletonPolicy(OptionReader& options);

  std::string name() const override { return "skeleton"; }
  nlohmann::json options() const override { return options_; }

  void attach(std::span<const LayerInfo> layers) override;
  TensorPlan plan(TensorId id, const StepInfo& step, TensorProbe& probe) override;
  void observe(TensorId id, const StepInfo& step, const QuantizeStatistics& statistics) override;
  RunControl end_epoch(const EpochReport& report) override;
  Format evaluation_format(TensorId id) const override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

 private:
  // What the next decision depends on, for one layer. All of it goes through state() and load_state().
  struct Layer {
    int gradient_bits = 8;
    int64_t codes = 0;      // gradient codes seen in this epoch
    int64_t zeros = 0;      // how many of them were 0
    bool announce = true;   // the next plan is a new decision
    double zero_share = 0;  // of the epoch behind the last decision
  };

  double zero_fraction_;
  nlohmann::json options_;
  std::vector<Layer> state_;
};

}  // namespace bitdial::policies
