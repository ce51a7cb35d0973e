#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "bitdial/core/error.h"

namespace bitdial::data {

/// The other end, or the way to it, failed: another URL may do better.
class NetworkError : public Error {
 public:
  using Error::Error;
};

struct FetchOptions {
  bool allow_local_http = false;
  int64_t stall_seconds = 60;
  int64_t most_bytes = 0;  ///< refuse more than this; 0 = no limit
};

/// Gets `url` into `file`, going on where an earlier fetch stopped when the server can do that. `progress`
/// gets bytes done and in all (0 = unknown) and returns false to interrupt. What has arrived stays in `file`
/// on every failure. Throws NetworkError; Error when the file cannot be written, the URL is not HTTPS, or the
/// fetch is interrupted.
void fetch(const std::string& url, const std::filesystem::path& file, const FetchOptions& options,
           const std::function<bool(int64_t, int64_t)>& progress);

}  // namespace bitdial::data
