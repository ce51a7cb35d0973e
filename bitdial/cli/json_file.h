#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace bitdial::cli {

/// Throws Error of `operation` when the file cannot be written.
void write_json_file(const std::string& file, const nlohmann::ordered_json& json, const char* operation);

}  // namespace bitdial::cli
