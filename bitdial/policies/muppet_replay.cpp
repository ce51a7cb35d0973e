// MuPPET's decisions, taken again from the numbers in a run's log.
#include <algorithm>

#include "bitdial/policies/muppet.h"

namespace bitdial::policies {

// GD comes from the log, T(e) and the count of violations follow. The level then holds for every operand,
// those without evidence of their own (X, dY) too.
std::optional<TensorPlan> MuppetPolicy::redecide(TensorId id, const StepInfo&,
                                                 const nlohmann::json& evidence) {
  const int64_t epoch = evidence.value("epoch", replayed_epoch_);
  if (epoch != replayed_epoch_) {
    replayed_epoch_ = epoch;
    if (evidence.contains("GD")) {
      const Judgement judgement = judge(epoch, evidence.at("GD").get<double>());
      replayed_ = judgement.evidence;
      if (judgement.is_over) level_ = std::min(level_ + 1, kMuppetLadder.size() - 1);
    } else if (const auto found = std::ranges::find(static_schedule_, epoch);
               found != static_schedule_.end()) {
      level_ = static_cast<size_t>(found - static_schedule_.begin()) + 1;
    }
  }
  TensorPlan plan;
  plan.format = evaluation_format(id);
  if (evidence.contains("GD")) plan.evidence = replayed_;
  return plan;
}

}  // namespace bitdial::policies
