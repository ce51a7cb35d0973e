#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace bitdial::train {

/// checkpoints/step-00000390.safetensors
std::filesystem::path checkpoint_file(const std::filesystem::path& folder, int64_t step);
std::filesystem::path best_checkpoint_file(const std::filesystem::path& folder);

/// Checkpoints of a folder by step, oldest first.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder);

/// Makes `checkpoint` the folder's best one. Atomic.
void mark_best(const std::filesystem::path& checkpoint);

/// Deletes all but the newest `keep` checkpoints (0: none); the best one stays.
void prune_checkpoints(const std::filesystem::path& folder, int64_t keep);

/// A checkpoint file itself, or the newest (`best`: the best) of a run directory. Throws Error when there is
/// none.
std::filesystem::path find_checkpoint(const std::filesystem::path& run_or_checkpoint, bool best);

}  // namespace bitdial::train
