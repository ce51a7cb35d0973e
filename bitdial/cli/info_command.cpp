// bitdial info: what this machine is and what each precision runs on here.
#include <ATen/Version.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "bitdial/cli/command.h"
#include "bitdial/cli/table.h"
#include "bitdial/core/parallel.h"
#include "bitdial/kernels/isa.h"

namespace bitdial::cli {

namespace {

struct Cpu {
  std::string model = "unknown";
  std::set<std::string> flags;
  bool has(const char* flag) const { return flags.contains(flag); }
};

Cpu read_cpu() {
  Cpu cpu;
  std::ifstream stream("/proc/cpuinfo");
  for (std::string line; std::getline(stream, line) && !line.empty();) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || colon + 2 > line.size()) continue;
    const std::string value = line.substr(colon + 2);
    if (line.starts_with("model name")) cpu.model = value;
    if (line.starts_with("flags")) {
      std::istringstream words(value);
      for (std::string word; words >> word;) cpu.flags.insert(word);
    }
  }
  return cpu;
}

/// OpenMP runtimes that are loaded in this process: there should be one.
std::set<std::string> openmp_runtimes() {
  std::set<std::string> runtimes;
  std::ifstream stream("/proc/self/maps");
  for (std::string line; std::getline(stream, line);) {
    const size_t slash = line.find('/');
    if (slash == std::string::npos) continue;
    const std::string file = std::filesystem::path(line.substr(slash)).filename();
    if (file.starts_with("libgomp") || file.starts_with("libomp") || file.starts_with("libiomp")) {
      runtimes.insert(line.substr(slash));
    }
  }
  return runtimes;
}

std::string joined(const std::set<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text.empty() ? "none" : text;
}

/// What bitdial's kernels multiply with, for operands of at most 8 and 16 bits.
struct KernelInstructions {
  const char* eight_bits;
  const char* sixteen_bits;
};

KernelInstructions instructions_of(kernels::Isa isa) {
  switch (isa) {
    case kernels::Isa::kAmx:
      return {"AMX tdpbssd", "AMX tdpbssd on digits"};
    case kernels::Isa::kAvx512Vnni:
      return {"AVX512-VNNI vpdpbusd", "AVX512-VNNI vpdpwssd on digits"};
    case kernels::Isa::kAvxVnni:
      return {"AVX-VNNI vpdpbusd", "AVX-VNNI vpdpwssd on digits"};
    case kernels::Isa::kAvx2:
      return {"AVX2 vpmaddwd", "AVX2 vpmaddwd on digits"};
    case kernels::Isa::kScalar:
      break;
  }
  return {"plain C++", "plain C++"};
}

std::string bfloat16_instructions(const Cpu& cpu) {
  if (cpu.has("amx_bf16")) return "AMX tdpbf16ps";
  if (cpu.has("avx512_bf16")) return "AVX512-BF16 vdpbf16ps";
  return "emulated in float32: slower than float32";
}

void print_precisions(const Cpu& cpu) {
  const KernelInstructions instructions = instructions_of(kernels::active_isa());
  Table table({"precision of a GEMM's operands", "computed by", "with"});
  table.add({"2 to 8 bits", "bitdial", instructions.eight_bits});
  table.add({"9 to 16 bits", "bitdial", instructions.sixteen_bits});
  table.add({"17 to 32 bits", "LibTorch", "float32 on fixed-point values"});
  table.add({"bfloat16", "LibTorch", bfloat16_instructions(cpu)});
  table.add({"float32", "LibTorch", at::get_cpu_capability()});
  fmt::print("\n{}", table.text());
}

void print_machine() {
  const Cpu cpu = read_cpu();
  std::set<std::string> runtimes;
  for (const std::string& path : openmp_runtimes()) runtimes.insert(std::filesystem::path(path).filename());
  std::string available;
  for (const kernels::Isa isa : kernels::available_isas()) {
    available += (available.empty() ? "" : ", ") + std::string(kernels::to_string(isa));
  }
  fmt::print("bitdial             {}\n", BITDIAL_VERSION);
  fmt::print("CPU                 {}\n", cpu.model);
  fmt::print("instruction sets    {}\n", available);
  fmt::print("active              {} (BITDIAL_ISA forces another)\n",
             kernels::to_string(kernels::active_isa()));
  fmt::print("threads             {}\n", num_threads());
  fmt::print("LibTorch            {}\n", TORCH_VERSION);
  fmt::print("OpenMP runtime      {}{}\n", joined(runtimes),
             runtimes.size() > 1 ? " (more than one: threads will compete)" : "");
  print_precisions(cpu);
}

}  // namespace

void add_info_command(CLI::App& app) {
  app.add_subcommand("info", "Show CPU, instruction sets, threads and libraries")->callback(print_machine);
}

}  // namespace bitdial::cli
