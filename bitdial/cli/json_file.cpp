#include "bitdial/cli/json_file.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"

namespace bitdial::cli {

void write_json_file(const std::string& file, const nlohmann::ordered_json& json, const char* operation) {
  std::ofstream stream(file);
  stream << json.dump(2) << '\n';
  stream.close();
  require(stream.good(), operation, "cannot write {}", file);
}

}  // namespace bitdial::cli
