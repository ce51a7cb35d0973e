#pragma once

#include <memory>
#include <optional>

#include "bitdial/core/policy.h"

namespace bitdial::nn {

/// The ranges of whole tensors of which a layer gets some samples at a time.
struct GroupRanges {
  std::optional<Range> x;
  std::optional<Range> dy;  ///< known when backward gets there
};

/// While it lives, layers of this thread ask for the precision of one of a gate's options (TensorId::option).
class OptionScope {
 public:
  struct Values {
    int index = kNoOption;
    std::shared_ptr<const GroupRanges> ranges;
  };

  explicit OptionScope(int option, std::shared_ptr<const GroupRanges> ranges = nullptr);
  ~OptionScope();
  OptionScope(const OptionScope&) = delete;
  OptionScope& operator=(const OptionScope&) = delete;

  static Values current();

 private:
  Values outer_;
};

}  // namespace bitdial::nn
