#include "bitdial/cost/kernel_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <vector>

#include "bitdial/core/atomic_file.h"
#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"

namespace bitdial::cost {
namespace {

constexpr int kLeastElements = 12;  // log2; below, a pass is the call's overhead
constexpr double kHopeless = 3.0;   // of float32's time

std::string cpu_model() {
  std::ifstream stream("/proc/cpuinfo");
  for (std::string line; std::getline(stream, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

nlohmann::json to_json(const Machine& machine) {
  return {{"cpu", machine.cpu},
          {"isa", machine.isa},
          {"threads", machine.threads},
          {"libraries", machine.libraries}};
}

// FNV-1a, 64 bits: the same name in every build.
uint64_t hash_of(const std::string& text) {
  uint64_t hash = 0xCBF29CE484222325U;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3U;
  return hash;
}

KernelTable::Measure stopwatch() {
  // Made on first use: its warm-up runs the reference loop.
  return [watch = std::shared_ptr<Stopwatch>()](const std::function<void()>& work, double hopeless) mutable {
    if (!watch) watch = std::make_shared<Stopwatch>(StopwatchOptions{.cold = true});
    return watch->time(work, hopeless);
  };
}

int log2_of(int64_t elements) {
  return std::max(kLeastElements, static_cast<int>(std::bit_width(static_cast<uint64_t>(elements) - 1)));
}

}  // namespace

Machine this_machine() {
  return {.cpu = cpu_model(),
          .isa = std::string(kernels::to_string(kernels::active_isa())),
          .threads = num_threads(),
          .libraries = fmt::format("bitdial {}, LibTorch {}", BITDIAL_VERSION, libtorch_version())};
}

std::filesystem::path cache_folder() {
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::filesystem::path(value != nullptr ? value : "");
  };
  // The specification ignores relative paths.
  if (const auto cache = variable("XDG_CACHE_HOME"); cache.is_absolute()) return cache / "bitdial";
  if (const auto home = variable("HOME"); home.is_absolute()) return home / ".cache" / "bitdial";
  return {};
}

KernelTable::KernelTable(std::filesystem::path cache, Machine machine, Measure measure)
    : cache_(std::move(cache)),
      machine_(std::move(machine)),
      measure_(measure ? std::move(measure) : stopwatch()) {
  load();
  for (auto& [key, entry] : entries_) entry.is_stale = !entry.is_certain && entry.attempts < kAttempts;
}

KernelTable KernelTable::open(bool trusting) {
  const Machine machine = this_machine();
  const auto folder = cache_folder();
  const std::string name = fmt::format("kernels-{:016x}.json", hash_of(to_json(machine).dump()));
  KernelTable table(folder.empty() ? folder : folder / name, machine);
  for (auto& [key, entry] : table.entries_) entry.is_stale = entry.is_stale && !trusting;
  return table;
}

double KernelTable::gemm(const GemmWork& work) {
  const Entry* const float32 =
      find(key_of({.shape = work.shape, .gemm = work.gemm, .arithmetic = GemmArithmetic::kFloat32}));
  const double hopeless =
      float32 != nullptr ? kHopeless * float32->seconds : std::numeric_limits<double>::infinity();
  return measure(
      key_of(work), [&] { return cost::prepare(work); }, hopeless);
}

double KernelTable::pass(Pass pass, int64_t elements) {
  if (elements <= 0) return 0.0;
  const int log2 = log2_of(elements);
  const double whole = measure(key_of(pass, log2), [&] { return cost::prepare(pass, int64_t{1} << log2); });
  return whole * static_cast<double>(elements) / std::ldexp(1.0, log2);
}

void KernelTable::prepare(std::span<const GemmWork> works, std::span<const PassWork> passes,
                          const std::function<void(int64_t, int64_t)>& progress) {
  std::set<std::string> keys;
  std::vector<std::function<void()>> unknown;
  const auto add = [&](const std::string& key, std::function<void()> work) {
    if (find(key) == nullptr && keys.insert(key).second) unknown.push_back(std::move(work));
  };
  for (const GemmWork& work : works) add(key_of(work), [this, &work] { gemm(work); });
  for (const PassWork& one : passes) {
    add(key_of(one.pass, log2_of(one.elements)), [this, &one] { pass(one.pass, one.elements); });
  }
  const auto all = std::ssize(unknown);
  for (int64_t done = 0; done < all; ++done) {
    if (progress) progress(done, all);
    unknown[static_cast<size_t>(done)]();
  }
  if (progress && all > 0) progress(all, all);
}

int64_t KernelTable::uncertain(std::span<const GemmWork> works) const {
  std::set<std::string> keys;
  for (const GemmWork& work : works) {
    const auto found = entries_.find(key_of(work));
    if (found != entries_.end() && !found->second.is_certain) keys.insert(found->first);
  }
  return std::ssize(keys);
}

const KernelTable::Entry* KernelTable::find(const std::string& key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() || found->second.is_stale ? nullptr : &found->second;
}

double KernelTable::measure(const std::string& key, const std::function<std::function<void()>()>& prepare,
                            double hopeless) {
  if (const Entry* const known = find(key)) return known->seconds;
  const Timing timing = measure_(prepare(), hopeless);
  require(std::isfinite(timing.seconds) && timing.seconds > 0.0, "cost", "{} took {} s", key, timing.seconds);
  Entry& entry = entries_[key];
  const bool is_worse = entry.is_stale && !timing.is_certain && entry.seconds < timing.seconds;
  entry = {.seconds = is_worse ? entry.seconds : timing.seconds,
           .is_certain = timing.is_certain,
           .attempts = entry.is_stale ? entry.attempts + 1 : 1};
  const double seconds = entry.seconds;
  save();
  return seconds;
}

// Adds what the file knows and this table does not.
void KernelTable::load() {
  std::error_code none;
  if (cache_.empty() || !std::filesystem::is_regular_file(cache_, none)) return;
  try {
    const auto bytes = read_bytes(cache_);
    const auto* const text = reinterpret_cast<const char*>(bytes.data());
    const auto json = nlohmann::json::parse(text, text + bytes.size());
    if (json.at("machine") != to_json(machine_)) return;
    std::map<std::string, Entry> read;
    for (const auto& [key, value] : json.at("times").items()) {
      const auto seconds = value.at("seconds").get<double>();
      if (!std::isfinite(seconds) || seconds <= 0.0) return;
      read[key] = {.seconds = seconds,
                   .is_certain = value.at("certain").get<bool>(),
                   .attempts = value.at("attempts").get<int>()};
    }
    entries_.merge(read);
  } catch (const nlohmann::json::exception&) {  // damaged: measured anew and overwritten
  } catch (const Error&) {                      // not readable
  }
}

void KernelTable::save() {
  if (cache_.empty()) return;
  load();  // another process may have measured meanwhile
  nlohmann::json times = nlohmann::json::object();
  for (const auto& [key, entry] : entries_) {
    times[key] = {{"seconds", entry.seconds}, {"certain", entry.is_certain}, {"attempts", entry.attempts}};
  }
  const std::string text = nlohmann::json{{"machine", to_json(machine_)}, {"times", times}}.dump(1) + "\n";
  const auto part = std::as_bytes(std::span(text));
  try {
    std::error_code none;
    std::filesystem::create_directories(cache_.parent_path(), none);
    write_atomically(cache_, std::span(&part, 1));
  } catch (const Error&) {  // a full or read-only disk: the times live as long as this table
  }
}

}  // namespace bitdial::cost
