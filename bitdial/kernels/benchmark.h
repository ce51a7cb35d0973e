#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "bitdial/kernels/conv2d.h"
#include "bitdial/kernels/isa.h"

/// Checks and times one convolution problem, as benchdnn does.
namespace bitdial::kernels {

enum class Direction : uint8_t { kForward, kBackwardData, kBackwardWeight };
std::string_view to_string(Direction direction);   ///< "fwd", "bwd_d", "bwd_w"
Direction parse_direction(std::string_view name);  ///< throws Error that lists the names

/// Two operand types in the order X*W, dY*W, X*dY, e.g. "s8s16".
struct OperandTypes {
  CodeType a = CodeType::kS8;
  CodeType b = CodeType::kS8;
};
std::string to_string(const OperandTypes& types);
OperandTypes parse_operand_types(std::string_view name);  ///< throws Error that lists the names

struct KernelBenchmark {
  ConvShape shape;
  Direction direction = Direction::kForward;
  OperandTypes types;
  Isa isa = active_isa();
};

struct BenchmarkOptions {
  int repetitions = 20;       ///< kept ones that a figure needs
  double max_seconds = 20.0;  ///< gives up after that
  /// Count only the calling thread's time on a core: tells kernels apart on a busy machine, with one thread.
  bool cpu_time = false;
};

struct BenchmarkResult {
  std::string problem;
  std::string direction, type, isa;
  bool correct = false;
  int kept = 0;  ///< repetitions that the figures come from
  double median_ms = 0.0;
  double gops = 0.0;       ///< 2 * macs (padded taps included) / median; 0 when too few repetitions were kept
  double peak_gops = 0.0;  ///< of the reference loop, all threads
  double share = 0.0;      ///< gops / peak_gops; 0 when refused
};

void to_json(nlohmann::json& json, const BenchmarkResult& result);

/// Correct: samples of the outputs equal the scalar reference bit by bit. Timed: codes in, bf16 (weight
/// gradient: float32) out, every packing and layout pass included. Between repetitions runs the reference
/// loop of the instruction (vpdpbusd, for 16-bit operands vpdpwssd, on AVX2 vpmaddwd, on AMX tdpbssd) with
/// operands from the L1 cache; repetitions beside which it is below 0.9 of its best are discarded.
BenchmarkResult run_benchmark(const KernelBenchmark& benchmark, const BenchmarkOptions& options = {});

}  // namespace bitdial::kernels
