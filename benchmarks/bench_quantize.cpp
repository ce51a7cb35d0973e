// Bytes read and written per second by every quantise pass, beside memcpy and a plain read on the same
// buffers: a pass is bound by memory when its figure is near theirs. One thread unless OMP_NUM_THREADS says
// more.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/quantize.h"

namespace bitdial::kernels {
namespace {

constexpr int64_t kChannels = 64;
constexpr int64_t kPixels = 32 * 32;

/// Activations of a batch: 1 sample stays in L2 (256 KiB), 256 samples go to memory (64 MiB).
struct Data {
  TensorShape shape;
  std::vector<float> x;
  std::vector<BFloat16> half;
  std::vector<char> codes;

  explicit Data(int64_t samples) : shape{.outer = samples, .channels = kChannels, .inner = kPixels} {
    std::minstd_rand generator;
    std::normal_distribution<float> normal;
    x.resize(static_cast<size_t>(shape.elements()));
    half.resize(x.size());
    codes.resize(x.size() * sizeof(float));
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = i < 100000 ? normal(generator) : x[i % 100000];
      uint32_t bits = 0;
      std::memcpy(&bits, &x[i], sizeof bits);
      half[i].bits = static_cast<uint16_t>(bits >> 16);
    }
  }
};

const Data& data(int64_t samples) {
  static const Data small(1), large(256);
  return samples == 1 ? small : large;
}

struct Case {
  std::string name;
  Format format;
};

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic}) {
    for (const ScaleRule rule : {ScaleRule::kPowerOfTwo, ScaleRule::kSymmetric, ScaleRule::kAffine}) {
      for (const int word_length : {8, 16, 24}) {
        const Format format{.rule = rule, .word_length = word_length, .rounding = rounding};
        list.push_back({to_string(format), format});
      }
    }
  }
  return list;
}

int64_t code_bytes(const Format& format) {
  return format.word_length <= 8 ? 1 : format.word_length <= 16 ? 2 : 4;
}

void report(benchmark::State& state, int64_t bytes_per_element) {
  state.SetBytesProcessed(state.iterations() * data(state.range(0)).shape.elements() * bytes_per_element);
}

template <class Input>
const Input* input(const Data& from) {
  if constexpr (std::is_same_v<Input, float>) {
    return from.x.data();
  } else {
    return from.half.data();
  }
}

template <class Input>
void run_quantize(benchmark::State& state, const Format& format) {
  const Data& from = data(state.range(0));
  const std::vector<QuantParams> params{choose_params(format, {-4.5F, 4.5F})};
  std::vector<char> codes(from.x.size() * sizeof(float));
  for (auto _ : state) {
    benchmark::DoNotOptimize(quantize(input<Input>(from), from.shape, format, params, {1, 2}, codes.data()));
  }
  report(state, static_cast<int64_t>(sizeof(Input)) + code_bytes(format));
}

void run_quantize_with_sums(benchmark::State& state) {
  const Data& from = data(state.range(0));
  const Format format{.rule = ScaleRule::kPowerOfTwo, .word_length = 8};
  const std::vector<QuantParams> params{choose_params(format, {-4.5F, 4.5F})};
  const Grid grids[] = {{8, -4}, {16, -12}};
  std::vector<char> codes(from.x.size());
  AbsSums sums;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        quantize_with_abs_sums(from.x.data(), from.shape, format, params, {}, codes.data(), grids, sums));
  }
  report(state, 5);
}

template <class Input>
void run_measure(benchmark::State& state) {
  const Data& from = data(state.range(0));
  Range range;
  for (auto _ : state) {
    measure_range(input<Input>(from), from.shape, Granularity::kTensor, {&range, 1});
    benchmark::DoNotOptimize(range);
  }
  report(state, sizeof(Input));
}

void run_abs_sum(benchmark::State& state) {
  const Data& from = data(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(abs_sum(from.x.data(), from.shape.elements()));
  report(state, 4);
}

void run_dequantize(benchmark::State& state, CodeType type) {
  const Data& from = data(state.range(0));
  const std::vector<QuantParams> params{{.scale = 0.1F}};
  std::vector<float> x(from.x.size());
  for (auto _ : state) {
    dequantize(from.codes.data(), type, from.shape, params, x.data());
    benchmark::ClobberMemory();
  }
  report(state, type == CodeType::kS8 ? 5 : 6);
}

void run_copy(benchmark::State& state) {
  const Data& from = data(state.range(0));
  std::vector<float> x(from.x.size());
  for (auto _ : state) {
    std::memcpy(x.data(), from.x.data(), x.size() * sizeof(float));
    benchmark::ClobberMemory();
  }
  report(state, 8);
}

/// A read that only has to keep the memory busy.
void run_read(benchmark::State& state) {
  const Data& from = data(state.range(0));
  for (auto _ : state) {
    uint64_t lanes[16] = {};
    const auto* words = reinterpret_cast<const uint64_t*>(from.x.data());
    for (size_t i = 0; i + 16 <= from.x.size() / 2; i += 16) {
      for (size_t lane = 0; lane < 16; ++lane) lanes[lane] |= words[i + lane];
    }
    benchmark::DoNotOptimize(lanes);
  }
  report(state, 4);
}

template <class Run>
void add(const std::string& name, Run run) {
  for (const int64_t samples : {1, 256}) {
    auto* registered = benchmark::RegisterBenchmark((name + (samples == 1 ? "/L2" : "/memory")).c_str(), run);
    registered->Arg(samples)->Unit(benchmark::kMicrosecond);
    // One thread's own time does not see who else uses the core.
    if (num_threads() > 1) registered->UseRealTime();
  }
}

void add_all() {
  add("copy", run_copy);
  add("read", run_read);
  add("measure/f32", run_measure<float>);
  add("measure/bf16", run_measure<BFloat16>);
  add("abs_sum/f32", run_abs_sum);
  for (const Case& item : cases()) {
    const Format format = item.format;
    add("quantize/f32/" + item.name,
        [format](benchmark::State& state) { run_quantize<float>(state, format); });
    if (format.word_length == 8) {
      add("quantize/bf16/" + item.name,
          [format](benchmark::State& state) { run_quantize<BFloat16>(state, format); });
    }
  }
  add("quantize_with_abs_sums/f32/pow2-8", run_quantize_with_sums);
  add("dequantize/s8", [](benchmark::State& state) { run_dequantize(state, CodeType::kS8); });
  add("dequantize/s16", [](benchmark::State& state) { run_dequantize(state, CodeType::kS16); });
}

}  // namespace
}  // namespace bitdial::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("isa",
                              std::string(bitdial::kernels::to_string(bitdial::kernels::active_isa())));
  if (std::getenv("OMP_NUM_THREADS") == nullptr) bitdial::set_num_threads(1);
  benchmark::AddCustomContext("threads", std::to_string(bitdial::num_threads()));
  bitdial::kernels::add_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
