#pragma once

#include <cstdint>
#include <functional>

/// Scratch memory and work sharing of the kernels.
namespace bitdial::kernels {

/// Memory that lives until the end of the scope, from an arena of the calling thread. The arena is kept
/// between calls (as large as the largest call so far), so that a steady state neither maps nor faults pages.
/// Scopes nest; memory may be handed to other threads while the scope is open.
class Workspace {
 public:
  Workspace();
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// Uninitialised, aligned to 64 bytes, with at least 64 readable bytes before and after.
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  void* take_bytes(int64_t bytes);
  int64_t chunk_ = 0;
  int64_t used_ = 0;
};

/// Runs task(0) .. task(count - 1), each once, on the process's threads, as parallel_for shares them out:
/// passes over the same images find in a thread's caches what its tasks of the pass before left there. Tasks
/// write disjoint outputs.
void run_tasks(int64_t count, const std::function<void(int64_t)>& task);

}  // namespace bitdial::kernels
