#include "bitdial/data/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bitdial/core/error.h"

namespace bitdial::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBlock = size_t{1} << 18;

class TarReader {
 public:
  explicit TarReader(const fs::path& file) : name_(file.string()), archive_(archive_read_new()) {
    require(archive_ != nullptr, "unpack", "cannot start libarchive");
    archive_read_support_filter_gzip(archive_.get());
    archive_read_support_format_tar(archive_.get());
    check(archive_read_open_filename(archive_.get(), file.c_str(), kBlock));
  }

  // The next entry, or none after the last.
  archive_entry* next() {
    archive_entry* entry = nullptr;
    const int code = archive_read_next_header(archive_.get(), &entry);
    if (code == ARCHIVE_EOF) return nullptr;
    check(code);
    return entry;
  }

  // Bytes of the current entry; 0 at its end.
  size_t read(std::vector<char>& buffer) {
    const la_ssize_t got = archive_read_data(archive_.get(), buffer.data(), buffer.size());
    if (got < 0) check(static_cast<int>(got));
    return static_cast<size_t>(got);
  }

  int64_t position() const { return archive_filter_bytes(archive_.get(), -1); }

 private:
  struct Free {
    void operator()(archive* a) const { archive_read_free(a); }
  };

  void check(int code) const {
    if (code >= ARCHIVE_WARN) return;
    const char* text = archive_error_string(archive_.get());
    fail("unpack", "{}: corrupt or truncated archive: {}", name_, text != nullptr ? text : "unknown error");
  }

  std::string name_;
  std::unique_ptr<archive, Free> archive_;
};

// Where an entry goes, or an Error when that is not below `to`.
fs::path destination(const fs::path& archive, const fs::path& to, archive_entry* entry) {
  const char* name = archive_entry_pathname(entry);
  require(name != nullptr && *name != '\0', "unpack", "{}: has an entry without a readable name",
          archive.string());
  const fs::path path(name);
  bool inside = path.is_relative();
  for (const auto& part : path) inside = inside && part != "..";
  require(inside, "unpack", "{}: entry '{}' would be written outside the data set's folder", archive.string(),
          name);
  return to / path;
}

void write_entry(TarReader& reader, const fs::path& file, int64_t& left,
                 const std::function<bool(int64_t)>& progress) {
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  const std::unique_ptr<std::FILE, Close> handle(std::fopen(file.c_str(), "wb"));
  require(handle != nullptr, "unpack", "{}: cannot write: {}", file.string(), std::strerror(errno));
  std::vector<char> buffer(kBlock);
  while (const size_t got = reader.read(buffer)) {
    left -= static_cast<int64_t>(got);
    require(left >= 0, "unpack", "{}: the archive holds more than it should", file.string());
    require(std::fwrite(buffer.data(), 1, got, handle.get()) == got, "unpack", "{}: cannot write: {}",
            file.string(), std::strerror(errno));
    require(!progress || progress(reader.position()), "unpack", "{}: interrupted", file.string());
  }
  require(std::fflush(handle.get()) == 0 && fsync(fileno(handle.get())) == 0, "unpack",
          "{}: cannot write: {}", file.string(), std::strerror(errno));
}

}  // namespace

void unpack_tar(const fs::path& archive, const fs::path& to, int64_t most_bytes,
                const std::function<bool(int64_t)>& progress) {
  TarReader reader(archive);
  int64_t left = most_bytes > 0 ? most_bytes : INT64_MAX;
  while (archive_entry* entry = reader.next()) {
    const fs::path path = destination(archive, to, entry);
    const auto type = archive_entry_filetype(entry);
    require((type == AE_IFREG || type == AE_IFDIR) && archive_entry_hardlink(entry) == nullptr, "unpack",
            "{}: entry '{}' is neither a file nor a folder", archive.string(), archive_entry_pathname(entry));
    std::error_code error;
    fs::create_directories(type == AE_IFDIR ? path : path.parent_path(), error);
    require(!error, "unpack", "{}: cannot create folder: {}", path.string(), error.message());
    if (type == AE_IFREG) write_entry(reader, path, left, progress);
  }
}

}  // namespace bitdial::data
