#include "bitdial/policies/sbm.h"

#include "bitdial/core/error.h"

namespace bitdial::policies {
namespace {

// Of dY for WTGRAD.
enum class Wide : uint8_t { kFloat32, kInt16 };

Format affine(int bits) { return {.rule = ScaleRule::kAffine, .word_length = bits}; }

}  // namespace

SbmPolicy::SbmPolicy(OptionReader& options) {
  const bool b1 = options.choice<bool>("version", "b3", {{"b3", false}, {"b1", true}},
                                       "the authors' code: W has a range per output channel (b3: "
                                       "convNet.pytorch) or one (b1: quantized.pytorch)");
  const int weight_bits = options.integer("weight_bits", 8, 2, 16, "word length of W");
  const int activation_bits = options.integer("activation_bits", 8, 2, 16, "word length of X");
  const int gradient_bits = options.integer("gradient_bits", 8, 2, 16, "word length of dY for BPROP");
  const bool biprecision = options.choice<bool>("biprecision", "on", {{"on", true}, {"off", false}},
                                                "WTGRAD has a wider dY of its own (gradient bifurcation)");
  const Wide wide = options.choice<Wide>(
      "gradient_wtgrad", "float32", {{"float32", Wide::kFloat32}, {"int16", Wide::kInt16}},
      "that wider dY: float32, as released, or 16 bits, as the paper has it");
  const Rounding act_rounding = options.choice<Rounding>(
      "act_rounding", "nearest", {{"nearest", Rounding::kNearestEven}, {"SR", Rounding::kStochastic}},
      "rounding of X; SR: stochastic, which b1 does by accident");
  activation_range_.momentum =
      options.number("running_momentum", 0.1, 0.0, 1.0,
                     "evaluation quantises X with a running range: run <- m * run + (1 - m) * new");
  activation_range_.start_at_zero =
      options.choice<bool>("running_start", "zero", {{"first_value", false}, {"zero", true}},
                           "first value of that range; zero, as released, shrinks it at first");
  normalization_ = options.choice<Normalization>(
      "normalization", "range", {{"batch", Normalization::kBatch}, {"range", Normalization::kRange}},
      "Range BN, or ordinary batch normalisation");
  options_ = options.resolved();

  const auto role = [this](TensorRole r) -> Format& { return formats_[static_cast<size_t>(r)]; };
  Format& w = role(TensorRole::kWeight);
  w = affine(weight_bits);
  if (!b1) w.granularity = Granularity::kChannel;
  // Smallest and largest element per sample, averaged over the batch: outliers clip.
  Format& x = role(TensorRole::kInput);
  x = affine(activation_bits);
  x.range_statistic = RangeStatistic::kSampleMean;
  x.rounding = act_rounding;
  role(TensorRole::kInputWtgrad) = x;
  Format& dy = role(TensorRole::kGradBprop);
  dy = affine(gradient_bits);
  dy.rounding = Rounding::kStochastic;
  Format& dy_wide = role(TensorRole::kGradWtgrad);
  dy_wide = dy;
  if (biprecision) {
    dy_wide.word_length = 16;
    if (wide == Wide::kFloat32) dy_wide = Format::float32();
  }
}

void SbmPolicy::attach(std::span<const LayerInfo> layers) {
  Policy::attach(layers);
  announced_.assign(layers.size(), {});
}

TensorPlan SbmPolicy::plan(TensorId id, const StepInfo& step, TensorProbe&) {
  TensorPlan plan;
  plan.format = evaluation_format(id);
  bool& announced = announced_.at(static_cast<size_t>(id.layer))[static_cast<size_t>(id.role)];
  if (step.training && !announced) {
    announced = true;
    plan.reason = "fixed by sbm";
    plan.evidence = {{"format", to_string(plan.format)}, {"version", options_.at("version")}};
  }
  return plan;
}

RunningRange SbmPolicy::running_range(TensorId id) const {
  const bool is_x = id.role == TensorRole::kInput || id.role == TensorRole::kInputWtgrad;
  return is_x ? activation_range_ : RunningRange{};
}

nlohmann::json SbmPolicy::state() const { return {{"announced", announced_}}; }

void SbmPolicy::load_state(const nlohmann::json& state) {
  auto announced = state.at("announced").get<std::vector<std::array<bool, kTensorRoles>>>();
  require(announced.size() == layers_.size(), "sbm", "the saved state has {} layers, the network {}",
          announced.size(), layers_.size());
  announced_ = std::move(announced);
}

}  // namespace bitdial::policies
