#include "bitdial/cost/apt_throughput.h"

#include "bitdial/core/error.h"

namespace bitdial::cost::apt {

namespace {

void check_share(double p) { require(p >= 0.0 && p <= 1.0, "cost", "a share lies in 0 .. 1, got {}", p); }

}  // namespace

double cpu_speedup(double p) {
  check_share(p);
  return 3.0 / (1.0 / 4.0 + 2.0 * (p / 4.0 + (1.0 - p) / 2.0));
}

double gpu_speedup(double p) {
  check_share(p);
  return 3.0 / (1.0 / 2.0 + 2.0 * (p / 2.0 + (1.0 - p)));
}

}  // namespace bitdial::cost::apt
