#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>

namespace bitdial::train {

/// Calls `read` with every line of a log (metrics.jsonl, precision.jsonl), first to last. A last line without
/// an end, which a process that was killed leaves, is skipped. Throws Error that names file and line when a
/// line is not JSON, and when the file cannot be read.
void for_each_line(const std::filesystem::path& file,
                   const std::function<void(const nlohmann::json& line)>& read);

}  // namespace bitdial::train
