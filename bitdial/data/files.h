#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <vector>

namespace bitdial::data {

/// The whole file. Throws Error "[operation] FILE: ..." when it is missing or cannot be read.
std::vector<uint8_t> read_file(const char* operation, const std::filesystem::path& file);

/// Lines of a text file without their line ends, empty lines left out; no lines when the file does not exist.
std::vector<std::string> read_lines(const std::filesystem::path& file);

/// The first of dir / candidate (in order) that contains a file named `marker`. Throws Error that names what
/// was looked for and how to get the data set: `advice`, or by `bitdial data get` when that is empty.
std::filesystem::path find_folder(const char* dataset, const std::filesystem::path& dir,
                                  std::initializer_list<const char*> candidates,
                                  std::initializer_list<const char*> markers, const std::string& advice = {});

}  // namespace bitdial::data
