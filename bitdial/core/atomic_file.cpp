#include "bitdial/core/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "bitdial/core/error.h"

namespace bitdial {

namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

/// Removes the temporary file unless it became the real one.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::filesystem::path path) : path_(std::move(path)) {}
  ~TemporaryFile() {
    if (path_.empty()) return;
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::filesystem::path& path() const { return path_; }
  void keep() { path_.clear(); }

 private:
  std::filesystem::path path_;
};

[[noreturn]] void fail_with_errno(const std::filesystem::path& path) {
  fail("file", "cannot write {}: {}", path.string(), std::strerror(errno));
}

void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_with_errno(path);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

}  // namespace

void write_atomically(const std::filesystem::path& path, std::span<const std::span<const std::byte>> parts) {
  const std::filesystem::path folder =
      path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  TemporaryFile temporary(folder / fmt::format(".{}.{}.part", path.filename().string(), ::getpid()));
  {
    const FileDescriptor file(
        ::open(temporary.path().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (file.get() < 0) fail_with_errno(path);
    for (const auto& part : parts) write_all(file.get(), part, path);
    if (::fsync(file.get()) != 0) fail_with_errno(path);
  }
  if (::rename(temporary.path().c_str(), path.c_str()) != 0) fail_with_errno(path);
  temporary.keep();
  // The rename itself must survive a power cut, too.
  const FileDescriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() >= 0) ::fsync(directory.get());
}

std::vector<std::byte> read_bytes(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary | std::ios::ate);
  require(stream.good() && !std::filesystem::is_directory(path), "file", "cannot read {}: {}", path.string(),
          std::filesystem::is_directory(path) ? "it is a folder" : std::strerror(errno));
  const std::streamoff size = stream.tellg();
  std::vector<std::byte> bytes(static_cast<size_t>(size));
  stream.seekg(0);
  stream.read(reinterpret_cast<char*>(bytes.data()), size);
  require(stream.good() || size == 0, "file", "cannot read {}: {}", path.string(), std::strerror(errno));
  return bytes;
}

}  // namespace bitdial
