#include "bitdial/train/plan.h"

#include <nlohmann/json.hpp>

#include "bitdial/kernels/problem.h"
#include "bitdial/policies/auto.h"

namespace bitdial::train {
namespace {

// Bytes that move per element of a normalised layer's output in a step, GEMMs and quantising aside: bfloat16
// written by the GEMM, read and normalised; read twice and written once in backward.
constexpr double kBytesPerActivation = 17.0;
// The same without a norm: the GEMM's output read and the activation written; the gradient brought in front
// of the activation and quantised.
constexpr double kBytesPerPlainActivation = 10.0;
// Weight, gradient and momentum read, weight and momentum written, gradient cleared: float32.
constexpr double kBytesPerParameter = 24.0;
constexpr double kBytesPerStreamed = 8.0;  // Pass::kStream: one float32 read, one written
constexpr int64_t kStreamed = int64_t{1} << 22;

double bytes_of(GemmArithmetic arithmetic) {
  switch (arithmetic) {
    case GemmArithmetic::kInt8:
      return 1.0;
    case GemmArithmetic::kFloat32:
      return 4.0;
    default:
      return 2.0;
  }
}

int64_t gemm_bytes(const kernels::ConvShape& s, const GemmPlan& plan) {
  const std::array<int64_t, 3> sizes{s.input_elements(), s.weight_elements(), s.output_elements()};
  // FPROP reads X and W and writes Y, BPROP reads dY and W and writes dX, WTGRAD reads X and dY and writes
  // dW.
  constexpr std::array<size_t, 3> kResult{2, 0, 1};
  double bytes = 0.0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const bool is_result = i == kResult[static_cast<size_t>(plan.gemm)];
    bytes += static_cast<double>(sizes[i]) * (is_result ? 4.0 : bytes_of(plan.choice));
  }
  return static_cast<int64_t>(bytes);
}

double other_seconds(std::span<const models::LayerRow> rows, int64_t batch, cost::KernelTable& table) {
  double bytes = 0.0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const models::LayerRow& row = rows[i];
    const auto outputs =
        static_cast<double>(row.output.channels * row.output.height * row.output.width * batch);
    const bool has_norm = i + 1 < rows.size() && rows[i + 1].kind == "norm2d";
    if (!has_gemms(row)) {
      bytes += kBytesPerActivation * outputs;
    } else if (!has_norm) {
      bytes += kBytesPerPlainActivation * outputs;
    }
    bytes += kBytesPerParameter * static_cast<double>(row.parameters);
  }
  return bytes / kBytesPerStreamed * table.pass(cost::Pass::kStream, kStreamed) /
         static_cast<double>(kStreamed);
}

// Those of the policy auto, and the first layer's.
policies::ChoiceOptions options_of(int layer) {
  return {.has_bprop = layer > 0, .between = Between::kBFloat16};
}

LayerPlan plan_layer(const models::LayerRow& row, int index, const kernels::ConvShape& shape,
                     Timings& timings) {
  LayerPlan layer;
  layer.name = row.name;
  layer.kind = row.kind;
  layer.shape = shape;
  layer.macs = shape.macs();
  const bool has_bprop = index > 0;
  const policies::Choice choice = policies::fastest(timings, index, {}, options_of(index));
  layer.seconds = choice.seconds;
  for (const Gemm gemm : {Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad}) {
    if (gemm == Gemm::kBprop && !has_bprop) continue;
    GemmPlan one{.gemm = gemm, .choice = choice.gemms[static_cast<size_t>(gemm)]};
    for (size_t i = 0; i < kPlanned.size(); ++i) one.seconds[i] = timings.gemm(index, gemm, kPlanned[i]);
    layer.bytes += gemm_bytes(shape, one);
    layer.gemms.push_back(one);
  }
  return layer;
}

}  // namespace

StepPlan plan_step(std::span<const models::LayerRow> rows, int64_t batch, cost::KernelTable& table,
                   const MeasureProgress& progress) {
  std::vector<const models::LayerRow*> layers;
  std::vector<kernels::ConvShape> shapes;
  for (const models::LayerRow& row : rows) {
    if (!has_gemms(row)) continue;
    layers.push_back(&row);
    shapes.push_back(gemm_shape(row, batch));
  }
  // Not owned: the plan is made before this function returns.
  const auto timings = make_timings({&table, [](cost::KernelTable*) {}}, shapes, true, progress);
  StepPlan plan;
  for (size_t i = 0; i < layers.size(); ++i) {
    plan.layers.push_back(plan_layer(*layers[i], static_cast<int>(i), shapes[i], *timings));
    plan.layer_seconds += plan.layers.back().seconds;
    for (size_t k = 0; k < kPlanned.size(); ++k) {
      plan.uniform_seconds[k] += policies::uniform_seconds(*timings, static_cast<int>(i), kPlanned[k],
                                                           options_of(static_cast<int>(i)));
    }
  }
  plan.other_seconds = other_seconds(rows, batch, table);
  plan.uncertain = table.uncertain(gemm_works(shapes, true));
  return plan;
}

nlohmann::ordered_json to_json(const StepPlan& plan, const std::string& model, int64_t batch,
                               const cost::Machine& machine) {
  auto layers = nlohmann::ordered_json::array();
  for (const LayerPlan& layer : plan.layers) {
    auto gemms = nlohmann::ordered_json::array();
    for (const GemmPlan& one : layer.gemms) {
      nlohmann::ordered_json ms;
      for (size_t i = 0; i < kPlanned.size(); ++i)
        ms[std::string(to_string(kPlanned[i]))] = 1e3 * one.seconds[i];
      gemms.push_back({{"gemm", to_string(one.gemm)}, {"ms", ms}, {"choice", to_string(one.choice)}});
    }
    layers.push_back({{"name", layer.name},
                      {"kind", layer.kind},
                      {"problem", kernels::to_string(layer.shape)},
                      {"macs", layer.macs},
                      {"bytes", layer.bytes},
                      {"gemms", gemms},
                      {"ms", 1e3 * layer.seconds}});
  }
  nlohmann::ordered_json uniform;
  for (size_t i = 0; i < kPlanned.size(); ++i) {
    uniform[std::string(to_string(kPlanned[i]))] = 1e3 * plan.uniform_seconds[i];
  }
  return {{"model", model},
          {"batch", batch},
          {"machine",
           {{"cpu", machine.cpu},
            {"isa", machine.isa},
            {"threads", machine.threads},
            {"libraries", machine.libraries}}},
          {"layers", layers},
          {"layer_ms", 1e3 * plan.layer_seconds},
          {"other_ms", 1e3 * plan.other_seconds},
          {"step_ms", 1e3 * plan.step_seconds()},
          {"uniform_layer_ms", uniform},
          {"uncertain_times", plan.uncertain}};
}

}  // namespace bitdial::train
