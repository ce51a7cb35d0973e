#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace bitdial::data {

struct Checksums {
  std::string sha256;  ///< lower-case hexadecimal
  std::string md5;
};

/// Both checksums of a file in one pass. `progress` gets the bytes read so far and returns false to stop (an
/// Error).
Checksums file_checksums(const std::filesystem::path& file,
                         const std::function<bool(int64_t)>& progress = {});

}  // namespace bitdial::data
