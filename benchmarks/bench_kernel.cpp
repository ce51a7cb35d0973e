// Development tool beside `bitdial bench kernel`: bench_kernel [--cpu-time] [--isa I] [--threads N] DIR TYPE
// PROBLEM... DIR and TYPE may be lists separated by commas.
#include <fmt/format.h>

#include <sstream>
#include <string>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/kernels/benchmark.h"
#include "bitdial/kernels/problem.h"

namespace {

using namespace bitdial;

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::stringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

struct Arguments {
  kernels::BenchmarkOptions options;
  kernels::Isa isa = kernels::active_isa();
  std::vector<std::string> rest;
};

Arguments read(int count, char** values) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string value = values[i];
    if (value == "--cpu-time") {
      arguments.options.cpu_time = true;
    } else if (value == "--isa" && i + 1 < count) {
      arguments.isa = kernels::parse_isa(values[++i]);
    } else if (value == "--threads" && i + 1 < count) {
      set_num_threads(std::stoi(values[++i]));
    } else {
      arguments.rest.push_back(value);
    }
  }
  require(arguments.rest.size() >= 3, "bench_kernel", "expected DIR TYPE PROBLEM...");
  return arguments;
}

void run(const Arguments& arguments) {
  for (size_t i = 2; i < arguments.rest.size(); ++i) {
    for (const std::string& type : split(arguments.rest[1])) {
      for (const std::string& direction : split(arguments.rest[0])) {
        const auto result = kernels::run_benchmark(
            {kernels::parse_problem(arguments.rest[i]), kernels::parse_direction(direction),
             kernels::parse_operand_types(type), arguments.isa},
            arguments.options);
        fmt::print("{:40} {:6} {:6} {:10} {} {:9.3f} ms {:7.1f} of {:7.1f} G/s, share {:.3f} ({} kept)\n",
                   result.problem, result.direction, result.type, result.isa,
                   result.correct ? "ok   " : "WRONG", result.median_ms, result.gops, result.peak_gops,
                   result.share, result.kept);
        std::fflush(stdout);
      }
    }
  }
}

}  // namespace

int main(int count, char** values) {
  try {
    set_num_threads(1);
    run(read(count, values));
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
