#include "bitdial/cli/profile_table.h"

#include <fmt/format.h>

#include "bitdial/cli/table.h"

namespace bitdial::cli {

std::string profile_table(const train::StepProfile& profile) {
  std::vector<std::string> head{"layer"};
  for (size_t i = 0; i < kPhases; ++i) head.emplace_back(to_string(static_cast<Phase>(i)));
  for (const char* name : {"ms", "%", "Gop/s", "of peak"}) head.emplace_back(name);
  Table table(head);
  const double total = profile.sum.total_ms();
  const auto add = [&](const train::ProfileRow& row) {
    std::vector<std::string> cells{row.layer.empty() ? "(no layer)" : row.layer};
    for (const double ms : row.ms) cells.push_back(ms > 0.0 ? fmt::format("{:.2f}", ms) : "");
    cells.push_back(fmt::format("{:.2f}", row.total_ms()));
    cells.push_back(fmt::format("{:.1f}", 100.0 * row.total_ms() / total));
    cells.push_back(row.gops ? fmt::format("{:.0f}", *row.gops) : "");
    cells.push_back(row.share ? fmt::format("{:.2f}", *row.share) : "");
    table.add(std::move(cells));
  };
  for (const train::ProfileRow& row : profile.rows) add(row);
  add(profile.sum);
  return fmt::format("{}Milliseconds of a step, mean of {}; peak: 8-bit products at {:.0f} Gop/s.\n",
                     table.text(), profile.steps, profile.peak_gops);
}

}  // namespace bitdial::cli
