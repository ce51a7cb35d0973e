#pragma once

#include <cstdint>
#include <cstdio>

namespace bitdial::cli {

/// Shows that kernels are being timed: on a terminal a bar that goes away when all are done, elsewhere one
/// line.
class MeasureBar {
 public:
  explicit MeasureBar(std::FILE* out);
  ~MeasureBar();
  MeasureBar(const MeasureBar&) = delete;
  MeasureBar& operator=(const MeasureBar&) = delete;

  void show(int64_t done, int64_t all);

 private:
  std::FILE* out_;
  bool live_;
  bool drawn_ = false;
};

}  // namespace bitdial::cli
