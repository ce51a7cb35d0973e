#include "bitdial/policies/shared_quantizer.h"

#include <algorithm>

#include "bitdial/core/error.h"

namespace bitdial::policies {
namespace {

constexpr SharedBits kDepthwiseBits{.forward = 8, .gradient = 16};

bool is_dy_role(TensorRole role) { return role == TensorRole::kGradBprop || role == TensorRole::kGradWtgrad; }

bool is_x_role(TensorRole role) { return role == TensorRole::kInput || role == TensorRole::kInputWtgrad; }

// In what is remembered of an announcement, beside the operand's own bits (at most 32).
constexpr int kOtherBits = 100;

// 1, 2, or 4 where values are carried in float32.
int code_bytes(const Format& format) {
  if (!has_integer_codes(format)) return 4;
  return format.word_length <= 8 ? 1 : 2;
}

bool has_imagenet_stem(std::span<const LayerInfo> layers) {
  return !layers.empty() && layers[0].kernel == 7 && layers[0].stride == 2;
}

}  // namespace

Format shared_format(TensorRole role, int bits) {
  if (bits == 0) return Format::float32();
  Format format{.rule = ScaleRule::kAffine, .word_length = bits};
  if (role == TensorRole::kWeight) format.granularity = Granularity::kChannel;
  if (is_dy_role(role)) format.rounding = Rounding::kStochastic;
  check(format);
  return format;
}

RunningRange shared_running_range(TensorRole role, double momentum) {
  return is_x_role(role) ? RunningRange{.momentum = momentum, .start_at_zero = true} : RunningRange{};
}

bool is_projection_shortcut(const LayerInfo& layer) {
  return layer.name.find("downsample") != std::string::npos ||
         layer.name.find("shortcut") != std::string::npos;
}

std::vector<bool> float_layers(SharedLayers rule, std::span<const LayerInfo> layers) {
  if (rule == SharedLayers::kAuto) {
    rule = has_imagenet_stem(layers) ? SharedLayers::kImageNet : SharedLayers::kCifar;
  }
  std::vector<bool> is_float(layers.size(), false);
  if (rule == SharedLayers::kAll) return is_float;
  for (size_t i = 0; i < layers.size(); ++i) {
    const bool imagenet_float =
        rule == SharedLayers::kImageNet && (layers[i].is_first || is_projection_shortcut(layers[i]));
    is_float[i] = layers[i].kind == LayerKind::kLinear || imagenet_float;
  }
  return is_float;
}

SharedQuantizer::SharedQuantizer(OptionReader& options, SharedLayers layers)
    : rule_(options.choice<SharedLayers>("layers", layers == SharedLayers::kImageNet ? "imagenet" : "auto",
                                         {{"auto", SharedLayers::kAuto},
                                          {"cifar", SharedLayers::kCifar},
                                          {"imagenet", SharedLayers::kImageNet},
                                          {"all", SharedLayers::kAll}},
                                         "quantised layers: every convolution (cifar), not the first one and "
                                         "projection shortcuts (imagenet), linear layers too (all)")),
      depthwise_is_fixed_(
          options.choice<bool>("depthwise", "8/16", {{"8/16", true}, {"follow", false}},
                               "depth-wise convolutions have 8 bits forward and 16 bits gradient always")),
      momentum_(options.number(
          "running_momentum", 0.9, 0.0, 1.0,
          "evaluation quantises X with a running range: run <- m * run + (1 - m) * new; 0: the last step's")),
      starts_at_zero_(options.choice<bool>("running_start", "zero", {{"first_value", false}, {"zero", true}},
                                           "first value of the running range")) {}

void SharedQuantizer::attach(std::span<const LayerInfo> layers) {
  is_float_ = float_layers(rule_, layers);
  is_depthwise_.clear();
  for (const LayerInfo& layer : layers) {
    is_depthwise_.push_back(depthwise_is_fixed_ && layer.kind == LayerKind::kDepthwiseConv2d);
  }
}

bool SharedQuantizer::is_fixed(int layer) const {
  return !quantizes(layer) || is_depthwise_[static_cast<size_t>(layer)];
}

SharedBits SharedQuantizer::bits(int layer, SharedBits wanted) const {
  if (!quantizes(layer)) return {.forward = 0, .gradient = 0};
  return is_depthwise_[static_cast<size_t>(layer)] ? kDepthwiseBits : wanted;
}

Format SharedQuantizer::format(TensorId id, SharedBits wanted) const {
  const SharedBits now = bits(id.layer, wanted);
  return shared_format(id.role, is_dy_role(id.role) ? now.gradient : now.forward);
}

RunningRange SharedQuantizer::running_range(TensorRole role) const {
  RunningRange running = shared_running_range(role, momentum_);
  running.start_at_zero = running.start_at_zero && starts_at_zero_;
  return running;
}

void SharedPolicy::attach(std::span<const LayerInfo> layers) {
  Policy::attach(layers);
  quantizer_.attach(layers);
  announced_.assign(layers.size(), {});
}

TensorPlan SharedPolicy::plan(TensorId id, const StepInfo& step, TensorProbe&) {
  TensorPlan plan;
  plan.format = evaluation_format(id);
  int& announced = announced_.at(static_cast<size_t>(id.layer))[static_cast<size_t>(id.role)];
  // What WTGRAD runs on changes with X, which has no line of its own for it: dY's line says so.
  const Format x = evaluation_format({id.layer, TensorRole::kInputWtgrad});
  const int now = plan.format.word_length + (is_dy_role(id.role) ? kOtherBits * code_bytes(x) : 0);
  if (step.training && announced != now) {
    announced = now;
    if (quantizer_.is_fixed(id.layer)) {
      plan.reason = fmt::format(
          "fixed by {}: {}", name(),
          plan.format.is_float() ? "this layer is not quantised" : "depth-wise convolutions have 8/16 bits");
      plan.evidence = {{"format", to_string(plan.format)}};
    } else {
      explain(id, plan);
    }
  }
  return plan;
}

Format SharedPolicy::evaluation_format(TensorId id) const {
  return quantizer_.format(id, wanted_bits(id.layer));
}

nlohmann::json SharedPolicy::state() const { return {{"announced", announced_}}; }

void SharedPolicy::load_state(const nlohmann::json& state) {
  auto announced = state.at("announced").get<std::vector<std::array<int, kTensorRoles>>>();
  require(announced.size() == layers_.size(), name().c_str(), "the saved state has {} layers, the network {}",
          announced.size(), layers_.size());
  announced_ = std::move(announced);
}

}  // namespace bitdial::policies
