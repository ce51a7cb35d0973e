#include "bitdial/cli/bench_step.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "bitdial/cli/profile_table.h"
#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/train/step_benchmark.h"

namespace bitdial::cli {
namespace {

struct StepArguments {
  train::StepBenchmarkOptions options;
  std::string arithmetic = "integer";
  std::string json_file;
  std::string peak_of;
  bool leaves_bf16_out = false;
};

std::string quote(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

/// Peak memory of this program running one row only, in a process of its own.
int64_t peak_in_child(const StepArguments& arguments, const std::string& row) {
  const auto program = std::filesystem::read_symlink("/proc/self/exe").string();
  const auto command = fmt::format(
      "{} bench step --model {} --batch {} --classes {} --arithmetic {} --threads {} --peak-of {}",
      quote(program), quote(arguments.options.model), arguments.options.batch, arguments.options.classes,
      arguments.arithmetic, num_threads(), quote(row));
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  require(pipe != nullptr, "bench step", "cannot start a process to measure the memory of {}", row);
  std::array<char, 64> line{};
  require(std::fgets(line.data(), line.size(), pipe.get()) != nullptr, "bench step",
          "the process that measures the memory of {} printed nothing", row);
  return std::stoll(line.data());
}

std::string ratio_text(const std::optional<double>& ratio, const std::optional<double>& paired) {
  if (!paired) return "";
  return ratio ? fmt::format("{:.2f}x", *ratio) : "refused";
}

// What can be said where other work never left the cores.
void print_paired(const std::vector<train::StepRow>& rows) {
  fmt::print("beside that work, medians of {} rounds (an indication, no ratio to report):\n",
             rows.front().rounds);
  for (const auto& row : std::span(rows).subspan(1)) {
    fmt::print("  {:<22} {:.2f}x of pytorch-float32", row.name, *row.paired_vs_float32);
    if (row.paired_vs_bf16) fmt::print(", {:.2f}x of pytorch-bf16", *row.paired_vs_bf16);
    fmt::print("\n");
  }
}

void print_table(const StepArguments& arguments, const std::vector<train::StepRow>& rows) {
  fmt::print("{}, batch {}, {} threads, kernels {}, policies in {} arithmetic\n", arguments.options.model,
             arguments.options.batch, num_threads(), kernels::to_string(kernels::active_isa()),
             arguments.arithmetic);
  fmt::print("{:<24} {:>10} {:>12} {:>10} {:>8} {:>10} {:>6}\n", "step", "median ms", "vs float32", "vs bf16",
             "policy", "peak MB", "kept");
  for (const auto& row : rows) {
    fmt::print("{:<24} {:>10.1f} {:>12} {:>10} {:>8} {:>10.1f} {:>6}\n", row.name, row.median_ms,
               ratio_text(row.speedup_vs_float32, row.paired_vs_float32),
               ratio_text(row.speedup_vs_bf16, row.paired_vs_bf16),
               row.policy_share ? fmt::format("{:.1f} %", 100.0 * *row.policy_share) : "",
               static_cast<double>(row.peak_bytes) * 1e-6, row.kept);
  }
  bool is_contended = false;
  for (const auto& row : rows) {
    if (row.kept >= arguments.options.kept) continue;
    fmt::print("{}: only {} of the {} uncontended repetitions a ratio needs (other work on these cores?)\n",
               row.name, row.kept, arguments.options.kept);
    is_contended = true;
  }
  if (is_contended) print_paired(rows);
}

void run(StepArguments& arguments) {
  if (arguments.options.policies == std::vector<std::string>{"all"}) {
    std::vector<std::string> left_out;
    arguments.options.policies = train::applicable_policies(arguments.options, left_out);
    for (const auto& line : left_out) fmt::print(stderr, "left out: {}\n", line);
  }
  arguments.options.has_bf16 = !arguments.leaves_bf16_out;
  arguments.options.simulated = arguments.arithmetic == "simulated";
  if (!arguments.peak_of.empty()) {
    fmt::print("{}\n", train::measure_peak_bytes(arguments.options, arguments.peak_of));
    return;
  }
  const bool live = isatty(STDERR_FILENO) != 0;
  auto rows = train::benchmark_steps(arguments.options, [&](double done) {
    if (live) fmt::print(stderr, "\rtiming: {:3.0f} %", 100 * done);
  });
  if (live) fmt::print(stderr, "\r\033[K");
  for (auto& row : rows) row.peak_bytes = peak_in_child(arguments, row.name);
  print_table(arguments, rows);
  for (const auto& row : rows) {
    if (row.profile) fmt::print("\n{}\n{}", row.name, profile_table(*row.profile));
  }
  if (arguments.json_file.empty()) return;
  std::ofstream file(arguments.json_file);
  file << train::to_json_array(rows).dump(2) << '\n';
  file.close();
  require(file.good(), "bench step", "cannot write {}", arguments.json_file);
}

}  // namespace

void add_bench_step(CLI::App& bench) {
  auto arguments = std::make_shared<StepArguments>();
  auto* command =
      bench.add_subcommand("step", "Time whole training steps: PyTorch float32, bf16 and policies");
  auto& options = arguments->options;
  command->add_option("--model", options.model, "network, see `bitdial models`")->capture_default_str();
  command->add_option("--batch", options.batch, "images per step")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--classes", options.classes, "outputs of the network")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--policy", options.policies,
                   "policies, separated by commas; all: every one that suits the network")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--arithmetic", arguments->arithmetic, "of the policies")
      ->check(CLI::IsMember({"integer", "simulated"}))
      ->capture_default_str();
  command->add_option("--threads", options.threads, "0: as many as the process may use")
      ->capture_default_str();
  command->add_option("--kept", options.kept, "uncontended repetitions that a ratio needs")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--time-limit", options.time_limit_s, "seconds after which no repetition is added")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--no-bf16", arguments->leaves_bf16_out,
                    "leave PyTorch bf16 out: a CPU without bf16 emulates it, seconds a step");
  command->add_flag("--profile", options.profiles, "show where the time of each policy's step goes");
  command->add_option("--json", arguments->json_file, "write the rows to this file");
  command->add_option("--peak-of", arguments->peak_of, "print the peak memory of one row in bytes")
      ->group("");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace bitdial::cli
