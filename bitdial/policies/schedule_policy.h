#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bitdial/policies/schedule_table.h"
#include "bitdial/policies/shared_quantizer.h"

namespace bitdial::policies {

/// Bits that were fixed in advance, by layer and epoch: from a file, from the recipe, or a row of LDP's
/// Table 1.
class SchedulePolicy : public SharedPolicy {
 public:
  explicit SchedulePolicy(OptionReader& options);

  std::string name() const override { return "schedule"; }
  void attach(std::span<const LayerInfo> layers) override;
  void begin_step(const StepInfo& step) override;
  std::optional<TensorPlan> redecide(TensorId id, const StepInfo& step,
                                     const nlohmann::json& evidence) override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

 protected:
  SharedBits wanted_bits(int layer) const override;
  void explain(TensorId id, TensorPlan& plan) const override;

 private:
  bool stretch_ = false;
  nlohmann::json source_;  // the table as it was given
  ScheduleTable table_;
  std::vector<const ScheduleTable::Row*> rows_;  // per layer, into table_
  double epoch_ = 0.0;                           // in the table's epochs
};

/// The name of a preset, or of a file.
nlohmann::json schedule_argument(std::string_view text);

}  // namespace bitdial::policies
