#pragma once

#include <string>

#include "bitdial/train/step_profile.h"

namespace bitdial::cli {

/// Milliseconds of a step by layer and phase, and what share of the machine's peak the GEMMs reach.
std::string profile_table(const train::StepProfile& profile);

}  // namespace bitdial::cli
