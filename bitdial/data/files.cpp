#include "bitdial/data/files.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>

#include "bitdial/core/error.h"

namespace bitdial::data {
namespace fs = std::filesystem;

std::vector<uint8_t> read_file(const char* operation, const fs::path& file) {
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  std::unique_ptr<std::FILE, Close> handle(std::fopen(file.c_str(), "rb"));
  require(handle != nullptr, operation, "{}: cannot open: {}", file.string(), std::strerror(errno));
  std::error_code error;
  require(!fs::is_directory(file, error), operation, "{}: is a folder, expected a file", file.string());
  const auto bytes = fs::file_size(file, error);
  require(!error, operation, "{}: cannot read its size: {}", file.string(), error.message());
  std::vector<uint8_t> content(bytes);
  const size_t got = content.empty() ? 0 : std::fread(content.data(), 1, content.size(), handle.get());
  require(got == content.size(), operation, "{}: read {} of {} bytes: {}", file.string(), got, bytes,
          std::ferror(handle.get()) != 0 ? std::strerror(errno) : "the file became shorter");
  return content;
}

std::vector<std::string> read_lines(const fs::path& file) {
  std::ifstream stream(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

fs::path find_folder(const char* dataset, const fs::path& dir, std::initializer_list<const char*> candidates,
                     std::initializer_list<const char*> markers, const std::string& advice) {
  std::error_code error;
  std::string looked;
  for (const char* candidate : candidates) {
    const fs::path folder = *candidate == '\0' ? dir : dir / candidate;
    for (const char* marker : markers) {
      if (fs::exists(folder / marker, error)) return folder;
    }
    looked += (looked.empty() ? "" : ", ") + (folder / *markers.begin()).string();
  }
  const std::string help =
      advice.empty() ? fmt::format("get it with `bitdial data get {} --dir {}`", dataset, dir.string())
                     : advice;
  fail(dataset, "{}: no such data set here; looked for {} ({})", dir.string(), looked, help);
}

}  // namespace bitdial::data
