#include "bitdial/train/checkpoint_folder.h"

#include <algorithm>

#include "bitdial/core/error.h"

namespace bitdial::train {

namespace fs = std::filesystem;

namespace {
constexpr const char* kExtension = ".safetensors";
}

fs::path checkpoint_file(const fs::path& folder, int64_t step) {
  return folder / fmt::format("step-{:08}{}", step, kExtension);
}

fs::path best_checkpoint_file(const fs::path& folder) { return folder / fmt::format("best{}", kExtension); }

std::vector<fs::path> list_checkpoints(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(folder, missing)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.ends_with(kExtension)) files.push_back(entry.path());
  }
  // More digits are more steps; within a length the order is the alphabet's.
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) {
    const std::string left = a.filename().string();
    const std::string right = b.filename().string();
    return std::pair(left.size(), left) < std::pair(right.size(), right);
  });
  return files;
}

void mark_best(const fs::path& checkpoint) {
  const fs::path best = best_checkpoint_file(checkpoint.parent_path());
  const fs::path temporary = checkpoint.parent_path() / ".best.part";
  fs::remove(temporary);
  std::error_code refused;
  fs::create_hard_link(checkpoint, temporary, refused);
  if (refused) fs::copy_file(checkpoint, temporary);  // file systems without hard links
  fs::rename(temporary, best);
}

void prune_checkpoints(const fs::path& folder, int64_t keep) {
  if (keep <= 0) return;
  const auto files = list_checkpoints(folder);
  const auto surplus = static_cast<int64_t>(files.size()) - keep;
  for (int64_t i = 0; i < surplus; ++i) fs::remove(files[static_cast<size_t>(i)]);
}

fs::path find_checkpoint(const fs::path& run_or_checkpoint, bool best) {
  require(fs::exists(run_or_checkpoint), "checkpoint", "{} does not exist", run_or_checkpoint.string());
  if (!fs::is_directory(run_or_checkpoint)) return run_or_checkpoint;
  const fs::path folder = run_or_checkpoint / "checkpoints";
  if (best && fs::exists(best_checkpoint_file(folder))) return best_checkpoint_file(folder);
  const auto files = list_checkpoints(folder);
  require(!files.empty(), "checkpoint", "{} holds no checkpoint yet", run_or_checkpoint.string());
  return files.back();
}

}  // namespace bitdial::train
