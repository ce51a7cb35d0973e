#pragma once

#include <filesystem>
#include <string_view>

namespace bitdial::cli {

/// Starts this program once more with the same arguments but `flag`, in a session of its own, with its output
/// appended to `log`, and prints its process number. Throws Error when it cannot be started.
void run_in_background(const std::filesystem::path& log, std::string_view flag);

}  // namespace bitdial::cli
