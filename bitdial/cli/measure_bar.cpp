#include "bitdial/cli/measure_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <string>

namespace bitdial::cli {

namespace {

constexpr int64_t kWidth = 24;

}  // namespace

MeasureBar::MeasureBar(std::FILE* out) : out_(out), live_(isatty(fileno(out)) != 0) {}

MeasureBar::~MeasureBar() {
  if (live_ && drawn_) fmt::print(out_, "\r\033[K");
}

void MeasureBar::show(int64_t done, int64_t all) {
  if (!live_) {
    if (!drawn_ && all > 0) fmt::print(out_, "timing {} kernels on this machine, for later runs too\n", all);
    drawn_ = true;
    return;
  }
  if (done == all) {
    fmt::print(out_, "\r\033[K");
    std::fflush(out_);
    drawn_ = false;
    return;
  }
  const auto filled = static_cast<size_t>(kWidth * done / all);
  fmt::print(out_, "\r\033[Ktiming kernels on this machine, for later runs too: {} of {} [{}{}]", done, all,
             std::string(filled, '#'), std::string(static_cast<size_t>(kWidth) - filled, '.'));
  std::fflush(out_);
  drawn_ = true;
}

}  // namespace bitdial::cli
