#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bitdial/core/policy.h"

namespace bitdial::policies {

/// Operands that follow another policy than the network's.
struct Override {
  /// Names, patterns with * and ?, "@first" and "@last"; empty: every layer.
  std::vector<std::string> layers;
  std::vector<std::string>
      tensors;  ///< "w", "x", "dy", or a role's own name ("dy_bprop"); empty: every tensor
  std::shared_ptr<Policy> policy;
  /// Rests in layers whose W and X the base leaves in float32 now, unless the base never quantises.
  bool follows_base = false;
};

/// `base`, except for the operands that an override names; the first that matches counts. Every policy sees
/// every layer, keeps its own state and is asked only about its own operands. Normalisation, float
/// arithmetic, a final precision, what is done to results and parameters are the base's; a learning rate or
/// stop is taken from the first policy that asks for one.
/// Throws Error when a pattern of layers (at attach) or a tensor is unknown.
std::shared_ptr<Policy> with_overrides(std::shared_ptr<Policy> base, std::vector<Override> overrides);

/// Gives dY to a policy of its own.
Override gradient_override(std::shared_ptr<Policy> gradient);

/// Whether `name` matches `pattern`, where * stands for any text and ? for one character.
bool matches_pattern(std::string_view name, std::string_view pattern);

}  // namespace bitdial::policies
