#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace bitdial::data {

/// One file on the network. Every stated checksum must match (lower-case hexadecimal; empty = not stated).
struct RemoteFile {
  std::string name;               ///< under which it is stored
  std::vector<std::string> urls;  ///< tried in this order
  int64_t bytes = 0;              ///< 0 = unknown
  std::string sha256;
  std::string md5;
};

/// A file that the finished data set must contain.
struct ExpectedFile {
  std::string name;
  int64_t bytes = 0;
};

/// Where a data set comes from and what it becomes: folder `folder` holding at least `contents`.
struct DatasetSource {
  std::string name;
  std::string description;
  std::string folder;
  std::vector<RemoteFile> files;
  bool unpack = false;  ///< the files are tar archives whose top folder is `folder`; otherwise they are kept
                        ///< as they are
  std::vector<ExpectedFile> contents;
  int64_t unpacked_bytes = 0;
};

/// The data sets that can be downloaded, with the checksums that their publishers (or, for MNIST, the common
/// mirrors) state.
const std::vector<DatasetSource>& dataset_sources();

/// Throws Error naming the known sources.
const DatasetSource& dataset_source(std::string_view name);

struct DownloadProgress {
  enum class Stage : uint8_t { kDownload, kCheck, kUnpack };
  Stage stage = Stage::kDownload;
  std::string file;
  int64_t done = 0;   ///< bytes
  int64_t total = 0;  ///< bytes; 0 = unknown
};

/// Called several times a second; false interrupts the download.
using ProgressCallback = std::function<bool(const DownloadProgress&)>;

struct DownloadOptions {
  bool allow_local_http = false;  ///< plain HTTP to 127.0.0.1 (tests); everything else must be HTTPS
  int64_t stall_seconds = 60;     ///< give up when nothing arrives for this long
};

enum class DownloadResult : uint8_t { kDownloaded, kAlreadyThere };

/// Downloads, checks, unpacks, and puts the finished folder `dir / source.folder` in place with one rename;
/// `dir` is created. What an interrupted download has fetched stays in the hidden folder `dir /
/// ".<name>.download"` and the next call goes on from there; the data set's folder itself is complete or
/// absent. Throws Error (network, HTTP status, checksum, disk full, malformed archive, interruption), naming
/// URL or file.
DownloadResult download(const DatasetSource& source, const std::filesystem::path& dir,
                        const ProgressCallback& progress = {}, const DownloadOptions& options = {});

}  // namespace bitdial::data
