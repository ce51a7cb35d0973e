#include "bitdial/nn/buffer_pool.h"

#include <torch/torch.h>

#include <cstdlib>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bitdial::nn {
namespace {

constexpr int64_t kSlack = 64;
constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Whole pages, but no whole huge pages: rounding up to those would hold a third more memory than is used.
void* allocate(int64_t size) {
  void* memory = std::aligned_alloc(static_cast<size_t>(kPage), static_cast<size_t>(size));
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  if (size >= kHugePage) madvise(memory, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
  return memory;
}

}  // namespace

BufferPool::~BufferPool() { drop_free_blocks(); }

void BufferPool::drop_free_blocks() {
  for (const auto& [size, memory] : free_) {
    std::free(memory);
    bytes_ -= size;
  }
  free_.clear();
}

int64_t BufferPool::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

BufferPool::Block BufferPool::acquire(int64_t bytes) {
  const int64_t size = round_up(bytes + 2 * kSlack, kPage);
  const std::lock_guard lock(mutex_);
  const auto found = free_.lower_bound(size);
  // A quarter too large is near enough; more would be missed elsewhere.
  if (found != free_.end() && found->first <= size + size / 4) {
    const Block block{found->second, found->first};
    free_.erase(found);
    return block;
  }
  // Shapes have changed when much lies idle: what they left is not what comes.
  int64_t idle = 0;
  for (const auto& [free_size, memory] : free_) idle += free_size;
  if (idle > bytes_ / 2) drop_free_blocks();
  bytes_ += size;
  return {allocate(size), size};
}

void BufferPool::release(Block block) {
  const std::lock_guard lock(mutex_);
  free_.emplace(block.size, block.memory);
}

at::Tensor BufferPool::take(at::IntArrayRef sizes, at::ScalarType dtype) {
  const auto count = c10::multiply_integers(sizes);
  const Block block = acquire(count * static_cast<int64_t>(c10::elementSize(dtype)));
  std::vector<int64_t> strides(sizes.size());
  if (sizes.size() == 4) {
    strides = c10::get_channels_last_strides_2d(sizes);
  } else {
    int64_t stride = 1;
    for (size_t i = sizes.size(); i-- > 0; stride *= sizes[i]) strides[i] = stride;
  }
  const auto options = at::TensorOptions().dtype(dtype);
  return at::from_blob(
      static_cast<char*>(block.memory) + kSlack, sizes, strides,
      [pool = shared_from_this(), block](void*) { pool->release(block); }, options);
}

}  // namespace bitdial::nn
