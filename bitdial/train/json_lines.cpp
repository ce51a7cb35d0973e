#include "bitdial/train/json_lines.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "bitdial/core/error.h"

namespace bitdial::train {

void for_each_line(const std::filesystem::path& file,
                   const std::function<void(const nlohmann::json& line)>& read) {
  std::ifstream stream(file);
  require(stream.good(), "run", "cannot read {}", file.string());
  int64_t number = 0;
  for (std::string text; std::getline(stream, text);) {
    ++number;
    const nlohmann::json line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (line.is_discarded() && stream.eof()) return;
    require(line.is_object(), "run", "{}, line {}: not a JSON object", file.string(), number);
    read(line);
  }
}

}  // namespace bitdial::train
