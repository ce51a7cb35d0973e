#include "bitdial/kernels/output_pass.h"

#include <algorithm>
#include <new>

#include "bitdial/core/profile.h"

namespace bitdial::kernels {

OutputPass::~OutputPass() = default;

void OutputPass::begin(int64_t stretches) {
  has_begun_ = true;
  start(stretches);
}

void run_whole(OutputPass& pass, int64_t pixels) {
  const PhaseScope phase(Phase::kNormalize);
  const int64_t size = pass.stretch();
  const int64_t stretches = (pixels + size - 1) / size;
  pass.begin(stretches);
  run_tasks(stretches, [&](int64_t i) { pass.run(i, i * size, std::min((i + 1) * size, pixels)); });
}

void StretchTasks::begin(OutputPass& pass, int64_t stretches, int64_t tasks_each, Workspace& workspace) {
  pass_ = &pass;
  left_ = workspace.take<std::atomic<int64_t>>(stretches);
  for (int64_t i = 0; i < stretches; ++i) new (left_ + i) std::atomic<int64_t>(tasks_each);
  pass.begin(stretches);
}

void StretchTasks::done(int64_t index, int64_t first, int64_t last) {
  if (pass_ == nullptr) return;
  if (left_[index].fetch_sub(1, std::memory_order_acq_rel) == 1) pass_->run(index, first, last);
}

}  // namespace bitdial::kernels
