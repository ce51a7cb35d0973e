#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
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
/// and kept in a file. Not thread-safe; several processes may share the file.
class KernelTable {
 public:
  /// Measures one piece of work; a test puts its own in place of the stopwatch.
  using Measure = std::function<Timing(const std::function<void()>& work)>;

  /// `cache`: empty, absent, of another machine or damaged means that nothing is known yet. A file that
  /// cannot be written is no error: the times are then measured in every process.
  explicit KernelTable(std::filesystem::path cache, Machine machine = this_machine(), Measure measure = {});

  /// The table of this machine and number of threads in the user's cache. `trusting`: also times that were
  /// measured beside other work serve, nothing is measured again.
  static KernelTable open(bool trusting = false);

  /// Seconds of one GEMM. Throws Error for an impossible shape.
  double gemm(const GemmWork& work);

  /// Seconds of a pass over so many elements, scaled from the next power of two.
  double pass(Pass pass, int64_t elements);

  /// Measures those that are not known; `progress(done, all)` before and after each.
  void prepare(std::span<const GemmWork> works, const std::function<void(int64_t, int64_t)>& progress = {});

  const Machine& machine() const { return machine_; }
  const std::filesystem::path& cache() const { return cache_; }
  /// How many of these are known from measurements beside other work on the cores only. The next process
  /// that asks measures them again.
  int64_t uncertain(std::span<const GemmWork> works) const;

 private:
  struct Entry {
    double seconds = 0.0;
    bool is_certain = true;
    bool is_stale = false;  ///< uncertain, of an earlier process
  };

  const Entry* find(const std::string& key) const;
  double measure(const std::string& key, const std::function<std::function<void()>()>& prepare);
  void load();
  void save();

  std::filesystem::path cache_;
  Machine machine_;
  Measure measure_;
  std::map<std::string, Entry> entries_;
};

}  // namespace bitdial::cost
