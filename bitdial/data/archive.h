#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

namespace bitdial::data {

/// Unpacks a tar archive (plain or gzip) into the existing folder `to`. Takes files and folders only, below
/// `to` only: an absolute path, a "..", a link or a device is an Error, and so is more than `most_bytes` in
/// all (0 = no limit), a truncated or corrupt archive, or a full disk. `progress` gets the bytes of the
/// archive read so far and returns false to stop.
void unpack_tar(const std::filesystem::path& archive, const std::filesystem::path& to, int64_t most_bytes,
                const std::function<bool(int64_t)>& progress = {});

}  // namespace bitdial::data
