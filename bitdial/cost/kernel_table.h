#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "bitdial/cost/stopwatch.h"
#include "bitdial/cost/work.h"

namespace bitdial::cost {

/// What a measured time is valid for.
struct Machine {
  std::string cpu;  ///< model name
  std::string isa;  ///< of bitdial's kernels
  int threads = 1;
  std::string libraries;  ///< versions of bitdial and LibTorch

  bool operator==(const Machine&) const = default;
};
Machine this_machine();

/// $XDG_CACHE_HOME/bitdial or ~/.cache/bitdial; empty when neither variable is set.
std::filesystem::path cache_folder();

/// How long the pieces of a training step take on this machine, measured the first time they are asked for
/// and kept in a file. What could only be measured beside other work on the cores is measured by the next
/// processes too, `kAttempts` in all; then the fastest serves. Not thread-safe; several processes may share
/// the file.
class KernelTable {
 public:
  static constexpr int kAttempts = 3;

  /// Measures one piece of work, roughly where it takes more than `hopeless` seconds; a test puts its own in
  /// place of the stopwatch.
  using Measure = std::function<Timing(const std::function<void()>& work, double hopeless)>;

  /// `cache`: empty, absent, of another machine or damaged means that nothing is known yet. A file that
  /// cannot be written is no error: the times are then measured in every process.
  explicit KernelTable(std::filesystem::path cache, Machine machine = this_machine(), Measure measure = {});

  /// The table of this machine and number of threads in the user's cache. `trusting`: also times that were
  /// measured beside other work serve, nothing is measured again.
  static KernelTable open(bool trusting = false);

  /// Seconds of one GEMM; rough ones of a GEMM that takes several times as long as float32's, if that is
  /// known. Throws Error for an impossible shape.
  double gemm(const GemmWork& work);

  /// Seconds of a pass over so many elements, scaled from the next power of two.
  double pass(Pass pass, int64_t elements);

  /// Measures those that are not known, in this order; `progress(done, all)` before and after each.
  void prepare(std::span<const GemmWork> works, std::span<const PassWork> passes = {},
               const std::function<void(int64_t, int64_t)>& progress = {});

  const Machine& machine() const { return machine_; }
  const std::filesystem::path& cache() const { return cache_; }
  /// How many of these are known from measurements beside other work on the cores only.
  int64_t uncertain(std::span<const GemmWork> works) const;

 private:
  struct Entry {
    double seconds = 0.0;
    bool is_certain = true;
    int attempts = 1;       ///< processes that measured it
    bool is_stale = false;  ///< uncertain, of too few earlier processes
  };

  const Entry* find(const std::string& key) const;
  double measure(const std::string& key, const std::function<std::function<void()>()>& prepare,
                 double hopeless = std::numeric_limits<double>::infinity());
  void load();
  void save();

  std::filesystem::path cache_;
  Machine machine_;
  Measure measure_;
  std::map<std::string, Entry> entries_;
};

}  // namespace bitdial::cost
