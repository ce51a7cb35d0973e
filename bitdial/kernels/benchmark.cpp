#include "bitdial/kernels/benchmark.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/kernels/conv2d_kernels.h"
#include "bitdial/kernels/problem.h"
#include "bitdial/kernels/reference_loop.h"

namespace bitdial::kernels {
namespace {

constexpr std::array kDirections = {std::pair{Direction::kForward, std::string_view("fwd")},
                                    std::pair{Direction::kBackwardData, std::string_view("bwd_d")},
                                    std::pair{Direction::kBackwardWeight, std::string_view("bwd_w")}};

using Bytes = std::vector<uint8_t>;

/// A dense tensor [outer][inner][channels] of codes or results.
struct Tensor {
  int64_t outer = 1, inner = 1, channels = 1, element = 1;
  Bytes bytes;

  Tensor(int64_t outer_size, int64_t inner_size, int64_t channel_count, int64_t element_size)
      : outer(outer_size),
        inner(inner_size),
        channels(channel_count),
        element(element_size),
        bytes(static_cast<size_t>(outer_size * inner_size * channel_count * element_size)) {}

  uint8_t* at(int64_t o, int64_t i, int64_t c) {
    return bytes.data() + ((o * inner + i) * channels + c) * element;
  }

  /// The part at these outer indices and channels.
  Tensor slice(const std::vector<int64_t>& outers, const std::vector<int64_t>& channel_list) {
    Tensor part(static_cast<int64_t>(outers.size()), inner, static_cast<int64_t>(channel_list.size()),
                element);
    for (int64_t o = 0; o < part.outer; ++o) {
      for (int64_t i = 0; i < inner; ++i) {
        for (int64_t c = 0; c < part.channels; ++c) {
          std::memcpy(part.at(o, i, c),
                      at(outers[static_cast<size_t>(o)], i, channel_list[static_cast<size_t>(c)]),
                      static_cast<size_t>(element));
        }
      }
    }
    return part;
  }
};

/// x, w and dy are tensors [batch][pixels][channels], weights [K][taps][C / groups].
struct Tensors {
  Tensor a, b, result;
};

bool is_forward(Direction d) { return d == Direction::kForward; }
bool is_weight(Direction d) { return d == Direction::kBackwardWeight; }

Tensors make_tensors(const ConvShape& s, Direction d, const OperandTypes& types) {
  const auto input = [&](int64_t size) {
    return Tensor(s.batch, s.in_height * s.in_width, s.in_channels, size);
  };
  const auto output = [&](int64_t size) {
    return Tensor(s.batch, s.out_height() * s.out_width(), s.out_channels, size);
  };
  const auto weight = [&](int64_t size) {
    return Tensor(s.out_channels, s.kernel_height * s.kernel_width, s.in_channels / s.groups, size);
  };
  const int64_t a = code_size(types.a);
  const int64_t b = code_size(types.b);
  if (is_forward(d)) return {input(a), weight(b), output(2)};
  if (is_weight(d)) return {input(a), output(b), weight(4)};
  return {output(a), weight(b), input(2)};
}

void compute(const ConvShape& s, Direction d, const OperandTypes& types, Tensors& t) {
  static const QuantParams kScaleA{0.0123F, 0, 0.0F};
  static const QuantParams kScaleB{0.0456F, 0, 0.0F};
  const Operand a{t.a.bytes.data(), types.a, {&kScaleA, 1}};
  const Operand b{t.b.bytes.data(), types.b, {&kScaleB, 1}};
  if (is_forward(d)) {
    conv2d_forward(s, a, b, nullptr, {t.result.bytes.data(), OutputType::kBFloat16});
  } else if (is_weight(d)) {
    conv2d_backward_weight(s, a, b, reinterpret_cast<float*>(t.result.bytes.data()));
  } else {
    conv2d_backward_data(s, a, b, {t.result.bytes.data(), OutputType::kBFloat16});
  }
}

void fill_random(Bytes& bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t draw = random();
    std::memcpy(bytes.data() + i, &draw, std::min<size_t>(8, bytes.size() - i));
  }
}

std::vector<int64_t> all(int64_t begin, int64_t count) {
  std::vector<int64_t> list(static_cast<size_t>(count));
  std::iota(list.begin(), list.end(), begin);
  return list;
}

std::vector<int64_t> some(std::mt19937_64& random, int64_t begin, int64_t count, int64_t wanted) {
  std::vector<int64_t> list;
  const std::vector<int64_t> from = all(begin, count);
  std::sample(from.begin(), from.end(), std::back_inserter(list), wanted, random);
  return list;
}

/// Recomputes a few images and channels (for the weight gradient: pairs of channels) of one group by the
/// reference.
bool sample_is_correct(const ConvShape& s, Direction d, const OperandTypes& types, Tensors& t,
                       uint64_t seed) {
  std::mt19937_64 random(seed);
  const int64_t group_in = s.in_channels / s.groups;
  const int64_t group_out = s.out_channels / s.groups;
  const auto group = static_cast<int64_t>(random() % static_cast<uint64_t>(s.groups));
  const auto images = is_weight(d) ? all(0, s.batch) : some(random, 0, s.batch, 1);
  const auto ins = is_forward(d) ? all(0, group_in) : some(random, 0, group_in, 3);
  const auto outs = d == Direction::kBackwardData ? all(0, group_out) : some(random, 0, group_out, 3);
  const auto shifted = [](std::vector<int64_t> list, int64_t by) {
    for (int64_t& i : list) i += by;
    return list;
  };
  const auto in_slice = [&](Tensor& tensor) { return tensor.slice(images, shifted(ins, group * group_in)); };
  const auto out_slice = [&](Tensor& tensor) {
    return tensor.slice(images, shifted(outs, group * group_out));
  };
  const auto weight_slice = [&](Tensor& tensor) {
    return tensor.slice(shifted(outs, group * group_out), ins);
  };
  Tensors part = is_forward(d)  ? Tensors{in_slice(t.a), weight_slice(t.b), out_slice(t.result)}
                 : is_weight(d) ? Tensors{in_slice(t.a), out_slice(t.b), weight_slice(t.result)}
                                : Tensors{out_slice(t.a), weight_slice(t.b), in_slice(t.result)};
  ConvShape sub = s;
  sub.groups = 1;
  sub.batch = static_cast<int64_t>(images.size());
  sub.in_channels = static_cast<int64_t>(ins.size());
  sub.out_channels = static_cast<int64_t>(outs.size());
  const Bytes actual = part.result.bytes;
  const ScopedIsa reference(Isa::kScalar);
  compute(sub, d, types, part);
  return actual == part.result.bytes;
}

struct Repetition {
  double seconds = 0.0;
  double peak = 0.0;  ///< the slower of the reference loops before and after
};

std::vector<Repetition> undisturbed(const std::vector<Repetition>& all_repetitions,
                                    const ReferenceLoop& loop) {
  std::vector<Repetition> kept;
  std::copy_if(all_repetitions.begin(), all_repetitions.end(), std::back_inserter(kept),
               [&](const Repetition& r) { return loop.is_uncontended(r.peak); });
  return kept;
}

void measure(const KernelBenchmark& benchmark, const BenchmarkOptions& options, Tensors& tensors,
             BenchmarkResult& result) {
  const bool words = code_size(benchmark.types.a) > 1 || code_size(benchmark.types.b) > 1;
  ReferenceLoop loop(benchmark.isa, words, options.cpu_time);
  const double start = seconds_now(false);
  for (int i = 0; i < 20; ++i) loop.run();
  std::vector<Repetition> repetitions;
  std::vector<Repetition> kept;
  double before = loop.run();
  while (static_cast<int>(kept.size()) < options.repetitions &&
         seconds_now(false) - start < options.max_seconds) {
    const double begin = seconds_now(options.cpu_time);
    compute(benchmark.shape, benchmark.direction, benchmark.types, tensors);
    const double seconds = seconds_now(options.cpu_time) - begin;
    const double after = loop.run();
    repetitions.push_back({seconds, std::min(before, after)});
    before = after;
    kept = undisturbed(repetitions, loop);
  }
  result.kept = static_cast<int>(kept.size());
  result.peak_gops = loop.best() * 1e-9;
  if (result.kept < options.repetitions) return;
  std::vector<double> seconds;
  for (const Repetition& r : kept) seconds.push_back(r.seconds);
  const double middle = median(seconds);
  result.median_ms = 1e3 * middle;
  result.gops = 2e-9 * static_cast<double>(benchmark.shape.macs()) / middle;
  result.share = result.gops / result.peak_gops;
}

}  // namespace

std::string_view to_string(Direction direction) {
  for (const auto& [value, name] : kDirections) {
    if (value == direction) return name;
  }
  return "unknown";
}

Direction parse_direction(std::string_view name) {
  for (const auto& [value, text] : kDirections) {
    if (text == name) return value;
  }
  fail("benchmark", "unknown direction '{}', expected fwd, bwd_d or bwd_w", name);
}

std::string to_string(const OperandTypes& types) {
  return std::string(to_string(types.a)) + std::string(to_string(types.b));
}

OperandTypes parse_operand_types(std::string_view name) {
  constexpr std::array kTypes = {CodeType::kS8, CodeType::kU8, CodeType::kS16, CodeType::kU16};
  for (const CodeType a : kTypes) {
    for (const CodeType b : kTypes) {
      if (to_string(OperandTypes{a, b}) == name) return {a, b};
    }
  }
  fail("benchmark", "unknown operand types '{}', expected two of s8, u8, s16, u16, e.g. s8s16", name);
}

void to_json(nlohmann::json& json, const BenchmarkResult& r) {
  json = {{"problem", r.problem}, {"dir", r.direction},   {"type", r.type},           {"isa", r.isa},
          {"correct", r.correct}, {"gops", nullptr},      {"peak_gops", r.peak_gops}, {"share", nullptr},
          {"median_ms", nullptr}, {"repetitions", r.kept}};
  if (r.gops <= 0.0) return;
  json["gops"] = r.gops;
  json["share"] = r.share;
  json["median_ms"] = r.median_ms;
}

BenchmarkResult run_benchmark(const KernelBenchmark& benchmark, const BenchmarkOptions& options) {
  check(benchmark.shape);
  BenchmarkResult result;
  result.problem = to_string(benchmark.shape);
  result.direction = to_string(benchmark.direction);
  result.type = to_string(benchmark.types);
  result.isa = to_string(benchmark.isa);
  Tensors tensors = make_tensors(benchmark.shape, benchmark.direction, benchmark.types);
  fill_random(tensors.a.bytes, 1);
  fill_random(tensors.b.bytes, 2);
  const ScopedIsa scope(benchmark.isa);
  compute(benchmark.shape, benchmark.direction, benchmark.types, tensors);
  result.correct = true;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    result.correct = result.correct &&
                     sample_is_correct(benchmark.shape, benchmark.direction, benchmark.types, tensors, seed);
  }
  measure(benchmark, options, tensors, result);
  return result;
}

}  // namespace bitdial::kernels
