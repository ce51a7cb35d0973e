#pragma once

#include <atomic>
#include <cstdint>

#include "bitdial/kernels/workspace.h"

/// What is done to the results of a convolution while a cache still holds them.
namespace bitdial::kernels {

/// A pass over pixels that runs stretch by stretch: behind a kernel that stores them stretch by stretch or,
/// where a kernel does not, over all of them at once. The convolution has run it when it returns.
class OutputPass {
 public:
  OutputPass() = default;
  virtual ~OutputPass();
  OutputPass(const OutputPass&) = delete;
  OutputPass& operator=(const OutputPass&) = delete;

  /// Every stretch begins at a multiple of this many pixels.
  virtual int64_t alignment() const = 0;
  /// Pixels of a stretch, a multiple of alignment(), for who may choose.
  virtual int64_t stretch() const = 0;

  /// Comes first.
  void begin(int64_t stretches);
  bool has_begun() const { return has_begun_; }
  /// The pixels [first, last) of a stretch, all of which are stored. Each stretch once, on any thread.
  virtual void run(int64_t index, int64_t first, int64_t last) = 0;

 protected:
  virtual void start(int64_t stretches) = 0;

 private:
  bool has_begun_ = false;
};

/// Runs a pass that has not begun over `pixels`, in parallel.
void run_whole(OutputPass& pass, int64_t pixels);

/// Runs a pass over each stretch when the last of the tasks that store it is done.
class StretchTasks {
 public:
  /// Begins the pass. `workspace` stays open as long as this is used.
  void begin(OutputPass& pass, int64_t stretches, int64_t tasks_each, Workspace& workspace);

  /// A task on the pixels [first, last) of a stretch is done; nothing happens where no pass has begun.
  void done(int64_t index, int64_t first, int64_t last);

 private:
  OutputPass* pass_ = nullptr;
  std::atomic<int64_t>* left_ = nullptr;
};

}  // namespace bitdial::kernels
