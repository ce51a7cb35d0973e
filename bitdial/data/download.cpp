#include "bitdial/data/download.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "bitdial/core/error.h"
#include "bitdial/data/archive.h"
#include "bitdial/data/checksum.h"
#include "bitdial/data/http.h"

namespace bitdial::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSpareBytes = 16 << 20;  // beyond what is known to be needed
constexpr double kMegabyte = 1e6;

// Held while one process works in the hidden folder.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& file)
      : descriptor_(open(file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644)) {
    require(descriptor_ >= 0, "download", "{}: cannot write: {}", file.string(), std::strerror(errno));
    if (flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
    close(descriptor_);
    fail("download", "{}: another download of this data set is running", file.parent_path().string());
  }
  ~FolderLock() { close(descriptor_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

class Download {
 public:
  Download(const DatasetSource& source, const fs::path& dir, const ProgressCallback& progress,
           const DownloadOptions& options)
      : source_(source),
        final_(dir / source.folder),
        work_(dir / ("." + source.name + ".download")),
        progress_(progress),
        options_(options) {}

  DownloadResult run() {
    if (is_complete(final_)) return DownloadResult::kAlreadyThere;
    require(!fs::exists(final_) || (fs::is_directory(final_) && fs::is_empty(final_)), "download",
            "{}: exists but is not the complete data set ({}); move it away first", final_.string(),
            what_is_wrong(final_));
    fs::create_directories(work_);
    const FolderLock lock(work_ / "lock");
    check_space();
    for (const RemoteFile& file : source_.files) get(file);
    assemble();
    fs::remove_all(work_);
    return DownloadResult::kDownloaded;
  }

 private:
  bool is_complete(const fs::path& folder) const { return what_is_wrong(folder).empty(); }

  std::string what_is_wrong(const fs::path& folder) const {
    std::error_code error;
    for (const ExpectedFile& file : source_.contents) {
      const fs::path path = folder / file.name;
      if (!fs::is_regular_file(path, error)) return fmt::format("{} is missing", file.name);
      const auto bytes = static_cast<int64_t>(fs::file_size(path, error));
      if (bytes != file.bytes)
        return fmt::format("{} has {} bytes, expected {}", file.name, bytes, file.bytes);
    }
    return {};
  }

  void check_space() const {
    int64_t needed = source_.unpacked_bytes + kSpareBytes;
    for (const RemoteFile& file : source_.files) {
      needed += file.bytes;
      for (const fs::path& present : {work_ / file.name, part(file)}) {
        if (fs::exists(present)) needed -= static_cast<int64_t>(fs::file_size(present));
      }
    }
    const auto free = static_cast<int64_t>(fs::space(work_).available);
    require(free >= needed, "download", "{}: needs {:.0f} MB on this disk, {:.0f} MB are free",
            work_.string(), static_cast<double>(needed) / kMegabyte, static_cast<double>(free) / kMegabyte);
  }

  fs::path part(const RemoteFile& file) const { return work_ / (file.name + ".part"); }

  bool report(DownloadProgress::Stage stage, const std::string& file, int64_t done, int64_t total) const {
    return !progress_ || progress_({stage, file, done, total});
  }

  // Leaves work_ / name with the right checksum.
  void get(const RemoteFile& file) const {
    const fs::path finished = work_ / file.name;
    if (fs::exists(finished)) return;
    std::string failures;
    for (const std::string& url : file.urls) {
      try {
        get_from(url, file);
        fs::rename(part(file), finished);
        return;
      } catch (const NetworkError& e) {
        failures += std::string(failures.empty() ? "" : "; then ") + e.what();
      }
    }
    throw Error(failures);
  }

  void get_from(const std::string& url, const RemoteFile& file) const {
    const fs::path to = part(file);
    const bool resumes = fs::exists(to) && fs::file_size(to) > 0;
    fetch_part(url, file);
    std::string wrong = wrong_checksum(to, file);
    if (!wrong.empty() && resumes) {  // the old part may have come from another version of the file
      fs::remove(to);
      fetch_part(url, file);
      wrong = wrong_checksum(to, file);
    }
    if (wrong.empty()) return;
    fs::remove(to);
    throw NetworkError(fmt::format("[download] {}: {}; what arrived was thrown away", url, wrong));
  }

  void fetch_part(const std::string& url, const RemoteFile& file) const {
    const fs::path to = part(file);
    const FetchOptions options{options_.allow_local_http, options_.stall_seconds, file.bytes};
    const bool whole =
        file.bytes > 0 && fs::exists(to) && static_cast<int64_t>(fs::file_size(to)) >= file.bytes;
    if (whole) return;
    fetch(url, to, options, [&](int64_t done, int64_t total) {
      return report(DownloadProgress::Stage::kDownload, file.name, done, file.bytes > 0 ? file.bytes : total);
    });
    // A transfer without a stated size may end early and still look whole.
    const auto bytes = static_cast<int64_t>(fs::file_size(to));
    if (bytes < file.bytes) {
      throw NetworkError(fmt::format("[download] {}: expected {} bytes, got {}", url, file.bytes, bytes));
    }
  }

  // Empty when everything that is known of the file agrees.
  std::string wrong_checksum(const fs::path& path, const RemoteFile& file) const {
    const auto bytes = static_cast<int64_t>(fs::file_size(path));
    if (file.bytes > 0 && bytes != file.bytes)
      return fmt::format("expected {} bytes, got {}", file.bytes, bytes);
    const Checksums sums = file_checksums(
        path, [&](int64_t done) { return report(DownloadProgress::Stage::kCheck, file.name, done, bytes); });
    if (!file.sha256.empty() && sums.sha256 != file.sha256) {
      return fmt::format("wrong checksum: expected SHA-256 {}, got {}", file.sha256, sums.sha256);
    }
    const bool has_sha256 = !file.sha256.empty();
    const bool md5_unavailable = sums.md5.empty() && has_sha256;
    if (!file.md5.empty() && sums.md5 != file.md5 && !md5_unavailable) {
      return fmt::format("wrong checksum: expected MD5 {}, got {}", file.md5, sums.md5);
    }
    return {};
  }

  // Builds the finished folder beside the downloads and renames it into place.
  void assemble() const {
    const fs::path unpacked = work_ / "unpacked";
    fs::remove_all(unpacked);
    fs::create_directories(unpacked / source_.folder);
    for (const RemoteFile& file : source_.files) {
      const fs::path path = work_ / file.name;
      if (!source_.unpack) {
        fs::rename(path, unpacked / source_.folder / file.name);
        continue;
      }
      const auto bytes = static_cast<int64_t>(fs::file_size(path));
      const int64_t most = source_.unpacked_bytes > 0 ? source_.unpacked_bytes + kSpareBytes : 0;
      unpack(path, unpacked, most, bytes, file.name);
    }
    const std::string wrong = what_is_wrong(unpacked / source_.folder);
    if (!wrong.empty()) fs::remove_all(unpacked);
    require(wrong.empty(), "download", "{}: the archive is not what was expected: {}", source_.name, wrong);
    fs::rename(unpacked / source_.folder, final_);
  }

  void unpack(const fs::path& archive, const fs::path& to, int64_t most, int64_t bytes,
              const std::string& name) const {
    try {
      unpack_tar(archive, to, most,
                 [&](int64_t done) { return report(DownloadProgress::Stage::kUnpack, name, done, bytes); });
    } catch (...) {
      std::error_code ignored;
      fs::remove_all(to, ignored);
      throw;
    }
  }

  const DatasetSource& source_;
  fs::path final_;
  fs::path work_;
  const ProgressCallback& progress_;
  DownloadOptions options_;
};

}  // namespace

DownloadResult download(const DatasetSource& source, const fs::path& dir, const ProgressCallback& progress,
                        const DownloadOptions& options) {
  try {
    return Download(source, dir, progress, options).run();
  } catch (const fs::filesystem_error& e) {
    fail("download", "{}: {}", e.path1().string(), e.code().message());
  }
}

}  // namespace bitdial::data
