#pragma once

#include <cstdint>
#include <functional>

namespace bitdial {

/// Runs body(begin, end) over disjoint ranges that cover [0, count), on the process's one OpenMP pool (the
/// same that LibTorch uses). `grain` is the smallest range worth a thread. A thread may get several ranges:
/// it begins with one of its own and, when it ends early, takes over what others have not begun. Nested calls
/// run serially. The split must not change results: bodies write disjoint outputs. An exception in a body is
/// rethrown to the caller; of several, that of the lowest range.
void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

int num_threads();
void set_num_threads(int threads);

}  // namespace bitdial
