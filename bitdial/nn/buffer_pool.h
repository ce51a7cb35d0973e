#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

namespace bitdial::nn {

/// Memory of a training step, kept from step to step: a buffer comes back when its tensor dies, so a steady
/// state neither maps nor faults pages. Thread-safe.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  BufferPool() = default;
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  /// Uninitialised, on the CPU, aligned to 64 bytes, with 64 readable bytes before and after; channels_last
  /// where it has four dimensions.
  at::Tensor take(at::IntArrayRef sizes, at::ScalarType dtype);

  int64_t bytes() const;  ///< held, in use or not

 private:
  struct Block {
    void* memory = nullptr;
    int64_t size = 0;
  };
  Block acquire(int64_t bytes);
  void release(Block block);
  void drop_free_blocks();

  mutable std::mutex mutex_;
  std::multimap<int64_t, void*> free_;
  int64_t bytes_ = 0;
};

}  // namespace bitdial::nn
