#include "bitdial/kernels/workspace.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>

#include "bitdial/core/parallel.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bitdial::kernels {
namespace {

constexpr int64_t kSlack = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

struct Chunk {
  std::byte* data = nullptr;
  int64_t size = 0;
};

/// Chunks of growing size; once nobody uses them, several become one.
struct Arena {
  std::vector<Chunk> chunks;
  int64_t chunk = 0;  ///< the one in use
  int64_t used = 0;   ///< bytes of it
  int64_t depth = 0;  ///< open scopes

  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() {
    for (const Chunk& c : chunks) std::free(c.data);
  }

  void grow(int64_t bytes) {
    const int64_t size = round_up(bytes, bytes >= kHugePage ? kHugePage : 4096);
    const auto alignment = static_cast<size_t>(size >= kHugePage ? kHugePage : 4096);
    auto* data = static_cast<std::byte*>(std::aligned_alloc(alignment, static_cast<size_t>(size)));
    if (data == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    if (size >= kHugePage) madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
    chunks.push_back({data, size});
  }

  void* take(int64_t bytes) {
    const int64_t need = round_up(bytes, 64) + 2 * kSlack;
    while (chunk < static_cast<int64_t>(chunks.size()) &&
           used + need > chunks[static_cast<size_t>(chunk)].size) {
      ++chunk;
      used = 0;
    }
    if (chunk == static_cast<int64_t>(chunks.size())) {
      grow(std::max<int64_t>(need, chunks.empty() ? 1 << 20 : chunks.back().size));
    }
    std::byte* result = chunks[static_cast<size_t>(chunk)].data + used + kSlack;
    used += need;
    return result;
  }

  void merge() {
    if (chunks.size() <= 1) return;
    int64_t total = 0;
    for (const Chunk& c : chunks) {
      total += c.size;
      std::free(c.data);
    }
    chunks.clear();
    grow(total);
  }
};

Arena& arena() {
  static thread_local Arena instance;
  return instance;
}

}  // namespace

Workspace::Workspace() : chunk_(arena().chunk), used_(arena().used) { ++arena().depth; }

Workspace::~Workspace() {
  Arena& a = arena();
  a.chunk = chunk_;
  a.used = used_;
  if (--a.depth == 0) a.merge();
}

void* Workspace::take_bytes(int64_t bytes) { return arena().take(bytes); }

void run_tasks(int64_t count, const std::function<void(int64_t)>& task) {
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) task(i);
  });
}

}  // namespace bitdial::kernels
