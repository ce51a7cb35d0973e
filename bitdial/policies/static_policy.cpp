#include "bitdial/policies/static_policy.h"

#include "bitdial/core/error.h"

namespace bitdial::policies {
namespace {

// Defaults that the preset `shared` changes; everything else is common.
struct Defaults {
  std::string activation_rule = "affine", weight_rule = "symmetric", gradient_rule = "symmetric";
  std::string weight_granularity = "tensor";
  bool exact_zero = true;
  std::string range = "previous";
  double running_momentum = 0.9;  // our choice: one batch's range is noisy
  std::string running_start = "first_value";
  std::string between = "bfloat16";
  std::string layers = "all";
  std::string depthwise = "follow";
};

// shared_quantizer.h
Defaults shared_defaults() {
  return {.activation_rule = "affine",
          .weight_rule = "affine",
          .gradient_rule = "affine",
          .weight_granularity = "channel",
          .exact_zero = false,
          .range = "exact",
          .running_momentum = 0.9,
          .running_start = "zero",
          .between = "float32",
          .layers = "auto",
          .depthwise = "8/16"};
}

constexpr int kFloatBits = 32;

int read_bits(OptionReader& options, const std::string& name, const std::string& help) {
  return options.integer(name, 8, 2, kFloatBits, help + "; above 16 carried in float32, 32: not quantised");
}

int read_wtgrad_bits(OptionReader& options, const std::string& name, const std::string& tensor,
                     const std::string& other) {
  const int bits = options.integer(
      name, 0, 0, kFloatBits,
      fmt::format("word length of {} for WTGRAD; 0: the {} serves both, 32: float32", tensor, other));
  require(bits != 1, "policies", "option \"{}\" of \"static\" must be 0 or 2 .. 32, got 1", name);
  return bits;
}

ScaleRule read_rule(OptionReader& options, const std::string& name, const std::string& fallback,
                    const std::string& tensor) {
  return options.choice<ScaleRule>(name, fallback,
                                   {{"symmetric", ScaleRule::kSymmetric},
                                    {"affine", ScaleRule::kAffine},
                                    {"power_of_two", ScaleRule::kPowerOfTwo}},
                                   "how the scale of " + tensor + " follows from its range");
}

Rounding read_rounding(OptionReader& options, const std::string& name, const std::string& fallback,
                       const std::string& tensor) {
  return options.choice<Rounding>(
      name, fallback, {{"nearest", Rounding::kNearestEven}, {"stochastic", Rounding::kStochastic}},
      "rounding of " + tensor);
}

Format with_bits(Format format, int bits) {
  if (bits == kFloatBits) return Format::float32();
  format.word_length = bits;
  format.exact_zero = format.exact_zero && format.rule == ScaleRule::kAffine;
  return format;
}

}  // namespace

StaticPolicy::StaticPolicy(OptionReader& options) {
  const bool shared = options.choice<bool>(
      "preset", "none", {{"none", false}, {"shared", true}},
      "the defaults of all other options: this table's, or the quantiser of CPT, FracTrain and LDP");
  const Defaults defaults = shared ? shared_defaults() : Defaults{};

  const int weight_bits = read_bits(options, "weight_bits", "word length of W");
  const int activation_bits = read_bits(options, "activation_bits", "word length of X");
  const int gradient_bits = read_bits(options, "gradient_bits", "word length of dY for BPROP");
  const int input_wtgrad_bits = read_wtgrad_bits(options, "activation_wtgrad_bits", "X", "X of FPROP");
  const int wtgrad_bits = read_wtgrad_bits(options, "gradient_wtgrad_bits", "dY", "dY of BPROP");

  Format weight, input, gradient;
  weight.rule = read_rule(options, "weight_rule", defaults.weight_rule, "W");
  input.rule = read_rule(options, "activation_rule", defaults.activation_rule, "X");
  gradient.rule = read_rule(options, "gradient_rule", defaults.gradient_rule, "dY");
  weight.granularity =
      options.choice<Granularity>("weight_granularity", defaults.weight_granularity,
                                  {{"tensor", Granularity::kTensor}, {"channel", Granularity::kChannel}},
                                  "one scale for W, or one per output channel");
  weight.exact_zero = input.exact_zero = gradient.exact_zero =
      options.flag("exact_zero", defaults.exact_zero, "affine formats have a code that means 0.0");
  weight.rounding = read_rounding(options, "weight_rounding", "nearest", "W");
  input.rounding = read_rounding(options, "activation_rounding", "nearest", "X");
  gradient.rounding = read_rounding(options, "gradient_rounding", "stochastic", "dY");
  input.range_statistic = options.choice<RangeStatistic>(
      "activation_range", "extreme",
      {{"extreme", RangeStatistic::kExtreme}, {"sample_mean", RangeStatistic::kSampleMean}},
      "range of X: its extremes, or the mean over samples of each sample's extremes (outliers clip)");
  weight.range_source = input.range_source = gradient.range_source = options.choice<RangeSource>(
      "range", defaults.range, {{"exact", RangeSource::kExact}, {"previous", RangeSource::kPrevious}},
      "range of this very tensor (one more pass), or of the steps before");

  activation_range_.momentum = options.number(
      "running_momentum", defaults.running_momentum, 0.0, 1.0,
      "evaluation quantises X with a running range: run <- m * run + (1 - m) * new; 0: the last step's");
  activation_range_.start_at_zero =
      options.choice<bool>("running_start", defaults.running_start, {{"first_value", false}, {"zero", true}},
                           "first value of the running range");
  normalization_ = options.choice<Normalization>(
      "normalization", "batch", {{"batch", Normalization::kBatch}, {"range", Normalization::kRange}},
      "batch normalisation by the standard deviation or by the range (SBM)");
  between_ = options.choice<Between>("between", defaults.between,
                                     {{"float32", Between::kFloat32}, {"bfloat16", Between::kBFloat16}},
                                     "what fused blocks store between their passes");
  layers_rule_ =
      options.choice<SharedLayers>("layers", defaults.layers,
                                   {{"auto", SharedLayers::kAuto},
                                    {"cifar", SharedLayers::kCifar},
                                    {"imagenet", SharedLayers::kImageNet},
                                    {"all", SharedLayers::kAll}},
                                   "quantised layers: every convolution (cifar), not the first one "
                                   "and projection shortcuts (imagenet), linear layers too (all)");
  depthwise_is_fixed_ =
      options.choice<bool>("depthwise", defaults.depthwise, {{"8/16", true}, {"follow", false}},
                           "depth-wise convolutions have 8 bits forward and 16 bits gradient always");
  options_ = options.resolved();

  const auto role = [this](TensorRole r) -> Format& { return formats_[static_cast<size_t>(r)]; };
  role(TensorRole::kWeight) = with_bits(weight, weight_bits);
  role(TensorRole::kInput) = with_bits(input, activation_bits);
  role(TensorRole::kInputWtgrad) =
      with_bits(input, input_wtgrad_bits == 0 ? activation_bits : input_wtgrad_bits);
  role(TensorRole::kGradBprop) = with_bits(gradient, gradient_bits);
  role(TensorRole::kGradWtgrad) = with_bits(gradient, wtgrad_bits == 0 ? gradient_bits : wtgrad_bits);
}

void StaticPolicy::attach(std::span<const LayerInfo> layers) {
  Policy::attach(layers);
  is_float_ = float_layers(layers_rule_, layers);
  announced_.assign(layers.size(), {});
}

Format StaticPolicy::evaluation_format(TensorId id) const {
  const auto layer = static_cast<size_t>(id.layer);
  if (is_float_.at(layer)) return Format::float32();
  Format format = formats_[static_cast<size_t>(id.role)];
  if (depthwise_is_fixed_ && layers_[layer].kind == LayerKind::kDepthwiseConv2d && !format.is_float()) {
    const bool is_gradient = id.role == TensorRole::kGradBprop || id.role == TensorRole::kGradWtgrad;
    format.word_length = is_gradient ? 16 : 8;
  }
  return format;
}

TensorPlan StaticPolicy::plan(TensorId id, const StepInfo& step, TensorProbe&) {
  TensorPlan plan;
  plan.format = evaluation_format(id);
  bool& announced = announced_.at(static_cast<size_t>(id.layer))[static_cast<size_t>(id.role)];
  if (step.training && !announced) {
    announced = true;
    plan.reason = "fixed by static";
    plan.evidence = {{"format", to_string(plan.format)}};
  }
  return plan;
}

RunningRange StaticPolicy::running_range(TensorId id) const {
  const bool activation = id.role == TensorRole::kInput || id.role == TensorRole::kInputWtgrad;
  return activation ? activation_range_ : RunningRange{};
}

nlohmann::json StaticPolicy::state() const { return {{"announced", announced_}}; }

void StaticPolicy::load_state(const nlohmann::json& state) {
  const auto announced = state.at("announced").get<std::vector<std::array<bool, kTensorRoles>>>();
  require(announced.size() == layers_.size(), "static", "the saved state has {} layers, the network {}",
          announced.size(), layers_.size());
  announced_ = announced;
}

}  // namespace bitdial::policies
