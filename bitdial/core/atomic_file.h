#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace bitdial {

/// Replaces `path` by a file with these parts one after another: written beside it, fsynced, renamed. After a
/// crash the old or the new file is there, never a part of one. Throws Error with the system's reason.
void write_atomically(const std::filesystem::path& path, std::span<const std::span<const std::byte>> parts);

/// The whole file. Throws Error with the system's reason.
std::vector<std::byte> read_bytes(const std::filesystem::path& path);

}  // namespace bitdial
