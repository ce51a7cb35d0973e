#include "bitdial/cli/bench_kernel.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/kernels/benchmark.h"
#include "bitdial/kernels/problem.h"

namespace bitdial::cli {
namespace {

struct KernelArguments {
  std::vector<std::string> problems;
  std::string problems_file;
  std::vector<std::string> directions = {"fwd"};
  std::vector<std::string> types = {"s8s8"};
  std::string isa;
  std::string json_file;
  int threads = 1;
  kernels::BenchmarkOptions options;
};

/// One problem a line; empty lines and what follows a # are ignored.
void read_problems(KernelArguments& arguments) {
  std::ifstream file(arguments.problems_file);
  require(file.good(), "bench kernel", "cannot read {}", arguments.problems_file);
  for (std::string line; std::getline(file, line);) {
    line = line.substr(0, line.find('#'));
    const auto begin = line.find_first_not_of(" \t\r");
    if (begin == std::string::npos) continue;
    arguments.problems.push_back(line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin));
  }
}

std::vector<kernels::KernelBenchmark> expand(const KernelArguments& arguments) {
  const kernels::Isa isa = arguments.isa.empty() ? kernels::active_isa() : kernels::parse_isa(arguments.isa);
  require(kernels::is_available(isa), "bench kernel", "this CPU cannot run {}", arguments.isa);
  std::vector<kernels::KernelBenchmark> benchmarks;
  for (const std::string& problem : arguments.problems) {
    for (const std::string& type : arguments.types) {
      for (const std::string& direction : arguments.directions) {
        benchmarks.push_back({kernels::parse_problem(problem), kernels::parse_direction(direction),
                              kernels::parse_operand_types(type), isa});
      }
    }
  }
  require(!benchmarks.empty(), "bench kernel", "no problem given, expected e.g. mb64ic64ih32oc64kh3sh1ph1");
  return benchmarks;
}

void print(const kernels::BenchmarkResult& r, int wanted) {
  fmt::print("{:40} {:6} {:7} {:10} {:7}", r.problem, r.direction, r.type, r.isa,
             r.correct ? "correct" : "WRONG");
  if (r.gops > 0.0) {
    fmt::print(" {:9.3f} {:8.1f} {:8.1f} {:6.3f}\n", r.median_ms, r.gops, r.peak_gops, r.share);
  } else {
    fmt::print(" only {} of {} uncontended repetitions (other work on these cores?)\n", r.kept, wanted);
  }
  std::fflush(stdout);
}

void run(KernelArguments& arguments) {
  if (!arguments.problems_file.empty()) read_problems(arguments);
  const auto benchmarks = expand(arguments);
  set_num_threads(arguments.threads);
  fmt::print("{:40} {:6} {:7} {:10} {:7} {:>9} {:>8} {:>8} {:>6}\n", "problem", "dir", "type", "isa", "check",
             "ms", "Gop/s", "peak", "share");
  nlohmann::json rows = nlohmann::json::array();
  bool correct = true;
  for (const auto& benchmark : benchmarks) {
    const auto result = kernels::run_benchmark(benchmark, arguments.options);
    print(result, arguments.options.repetitions);
    rows.push_back(result);
    correct = correct && result.correct;
  }
  if (!arguments.json_file.empty()) {
    std::ofstream file(arguments.json_file);
    file << rows.dump(2) << '\n';
    file.close();
    require(file.good(), "bench kernel", "cannot write {}", arguments.json_file);
  }
  require(correct, "bench kernel", "results differ from the scalar reference");
}

}  // namespace

void add_bench_kernel(CLI::App& bench) {
  auto arguments = std::make_shared<KernelArguments>();
  auto* command =
      bench.add_subcommand("kernel", "Check and time integer convolutions, one problem string each");
  command->add_option("problem", arguments->problems,
                      "in benchdnn's notation, e.g. mb64ic64ih32oc64kh3sh1ph1 (dh0: no dilation)");
  command->add_option("--problems", arguments->problems_file, "a file with one problem a line");
  command->add_option("--dir", arguments->directions, "fwd, bwd_d or bwd_w; several separated by commas")
      ->delimiter(',')
      ->check(CLI::IsMember({"fwd", "bwd_d", "bwd_w"}))
      ->capture_default_str();
  command
      ->add_option("--type", arguments->types,
                   "operand types in the order X*W, dY*W, X*dY: s8s8, s8s16, s16s8, s16s16 or with u8, u16; "
                   "several separated by commas")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--isa", arguments->isa,
                      "scalar, avx2, avxvnni, avx512vnni or amx; default: the best here");
  command->add_option("--threads", arguments->threads, "threads")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--kept", arguments->options.repetitions, "uncontended repetitions that a figure needs")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--time-limit", arguments->options.max_seconds,
                   "seconds after which a problem is given up")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag(
      "--cpu-time", arguments->options.cpu_time,
      "count only this thread's time on a core (tells kernels apart on a busy machine, one thread)");
  command->add_option("--json", arguments->json_file, "write the rows to this file");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace bitdial::cli
