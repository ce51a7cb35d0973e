#include <gtest/gtest.h>
#include <torch/torch.h>

#include <atomic>
#include <fstream>
#include <set>
#include <string>

#include "bitdial/core/parallel.h"

namespace bitdial {
namespace {

std::set<std::string> mapped_openmp_runtimes() {
  std::set<std::string> files;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto path = line.find('/');
    if (path == std::string::npos) continue;
    const std::string name = line.substr(line.rfind('/') + 1);
    for (const char* runtime : {"libgomp", "libomp", "libiomp5"}) {
      if (name.starts_with(runtime)) files.insert(line.substr(path));
    }
  }
  return files;
}

// Two runtimes would mean two pools of threads that fight for the same cores, and undefined behaviour in
// libgomp.
TEST(ProcessLibraries, OneOpenMpRuntimeServesKernelsAndLibTorch) {
  std::atomic<int64_t> sum = 0;
  parallel_for(1000, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum += i;
  });
  const auto product = torch::ones({300, 300}).matmul(torch::ones({300, 300}));
  EXPECT_EQ(sum, 499500);
  EXPECT_EQ(product.sum().item<float>(), 300.0F * 300.0F * 300.0F);
  const auto runtimes = mapped_openmp_runtimes();
  EXPECT_EQ(runtimes.size(), 1U) << ::testing::PrintToString(runtimes);
}

TEST(ProcessLibraries, ThreadCountOfLibTorchIsTheKernels) {
  const int before = torch::get_num_threads();
  EXPECT_EQ(num_threads(), before);
  torch::set_num_threads(before + 1);
  EXPECT_EQ(num_threads(), before + 1);
  torch::set_num_threads(before);
}

}  // namespace
}  // namespace bitdial
