#include "bitdial/policies/auto.h"

#include <algorithm>
#include <utility>

#include "bitdial/core/error.h"

namespace bitdial::policies {
namespace {

// Kernels are timed alone, with their results where the last ones were. In a step LibTorch allocates anew.
constexpr double kMargin = 0.9;
constexpr std::array<Gemm, kGemms> kAllGemms{Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad};

size_t index(Gemm gemm) { return static_cast<size_t>(gemm); }
bool is_integer(GemmArithmetic arithmetic) { return arithmetic < GemmArithmetic::kBFloat16; }

// Forms of an operand that some GEMMs want made for them.
struct Forms {
  bool codes = false, converted = false;
  void add(GemmArithmetic arithmetic, bool converts) {
    codes = codes || is_integer(arithmetic);
    converted = converted || converts;
  }
};

double seconds_of(const Forms& forms, Timings& timings, int layer, TensorRole role) {
  return (forms.codes ? timings.convert(layer, role, false) : 0.0) +
         (forms.converted ? timings.convert(layer, role, true) : 0.0);
}

// Y has the size of dY, dX of X, dW of W.
TensorRole size_of_result(Gemm gemm) {
  return gemm == Gemm::kFprop   ? TensorRole::kGradBprop
         : gemm == Gemm::kBprop ? TensorRole::kInput
                                : TensorRole::kWeight;
}

double seconds_of(const Choice& choice, Timings& timings, int layer, const ChoiceOptions& options) {
  double seconds = 0.0;
  Forms w, x, dy;
  for (const Gemm gemm : kAllGemms) {
    if (gemm == Gemm::kBprop && !options.has_bprop) continue;
    const GemmArithmetic arithmetic = choice.gemms[index(gemm)];
    seconds += timings.gemm(layer, gemm, arithmetic);
    // Weights and their gradients are float32, the tensors between layers what `between` says. A float GEMM
    // computes in its own type and hands its result over in theirs.
    const bool is_bfloat16 = arithmetic == GemmArithmetic::kBFloat16;
    const bool converts_weight = is_bfloat16;
    const bool converts =
        is_bfloat16 || (arithmetic == GemmArithmetic::kFloat32 && options.between == Between::kBFloat16);
    if (gemm != Gemm::kBprop) x.add(arithmetic, converts);
    if (gemm != Gemm::kWtgrad) w.add(arithmetic, converts_weight);
    if (gemm != Gemm::kFprop) dy.add(arithmetic, converts);
    if (gemm == Gemm::kWtgrad ? converts_weight : converts) {
      seconds += timings.convert(layer, size_of_result(gemm), true);
    }
  }
  return seconds + seconds_of(w, timings, layer, TensorRole::kWeight) +
         seconds_of(x, timings, layer, TensorRole::kInput) +
         seconds_of(dy, timings, layer, TensorRole::kGradBprop);
}

std::vector<GemmArithmetic> candidates(Gemm gemm, const Widths& widths, const ChoiceOptions& options) {
  std::vector<GemmArithmetic> all{narrowest(gemm, widths)};
  if (options.bfloat16) all.push_back(GemmArithmetic::kBFloat16);
  if (is_integer(all.front())) all.push_back(GemmArithmetic::kFloat32);
  return all;
}

// Which operands read the same tensor as `role`: W, X or dY.
TensorRole tensor_of(TensorRole role) {
  if (role == TensorRole::kInputWtgrad) return TensorRole::kInput;
  return role == TensorRole::kGradWtgrad ? TensorRole::kGradBprop : role;
}

AptPolicy make_apt(double T, double T_linear, double quantify_rate) {
  // The moving average starts at the first exponent: with APT's own 100 it would measure every step of the
  // first 150. Saturation is the session's business here, it measures ranges anew.
  OptionReader reader("apt", {{"T", T},
                              {"T_linear", T_linear},
                              {"quantify_rate", quantify_rate},
                              {"M0", "first_s"},
                              {"error_grid", "symmetric"},
                              {"saturation_guard", "off"}});
  return AptPolicy(reader);
}

nlohmann::json to_json(const Widths& widths) { return {widths.w, widths.x, widths.dy}; }

Widths widths_from(const nlohmann::json& json) {
  const auto all = json.get<std::array<int, 3>>();
  return {.w = all[0], .x = all[1], .dy = all[2]};
}

int Widths::*width_of(TensorRole tensor) {
  return tensor == TensorRole::kWeight ? &Widths::w : tensor == TensorRole::kInput ? &Widths::x : &Widths::dy;
}

constexpr std::array kOperands{TensorRole::kWeight, TensorRole::kInput, TensorRole::kGradBprop};
const char* to_text(bool to_bfloat16) { return to_bfloat16 ? "bfloat16" : "codes"; }

/// The times of one layer as a log has them: milliseconds, {"FPROP": {"int8": ...}, "w": {"codes": ...}}.
class LoggedTimings : public Timings {
 public:
  explicit LoggedTimings(const nlohmann::json& times) : times_(times) {}
  double gemm(int, Gemm gemm, GemmArithmetic arithmetic) override {
    return of(to_string(gemm), to_string(arithmetic));
  }
  double convert(int, TensorRole role, bool to_bfloat16) override {
    return of(to_string(role), to_text(to_bfloat16));
  }

 private:
  double of(std::string_view row, std::string_view column) const {
    const auto found = times_.find(row);
    require(found != times_.end() && found->contains(column), "auto", "the log has no time of {} as {}", row,
            column);
    return 1e-3 * found->at(std::string(column)).get<double>();
  }
  const nlohmann::json& times_;
};

}  // namespace

GemmArithmetic narrowest(Gemm gemm, const Widths& widths) {
  const int a = gemm == Gemm::kBprop ? widths.dy : widths.x;
  const int b = gemm == Gemm::kWtgrad ? widths.dy : widths.w;
  if (std::max(a, b) > 16) return GemmArithmetic::kFloat32;
  if (a <= 8) return b <= 8 ? GemmArithmetic::kInt8 : GemmArithmetic::kInt8x16;
  return b <= 8 ? GemmArithmetic::kInt16x8 : GemmArithmetic::kInt16;
}

Choice fastest(Timings& timings, int layer, const Widths& widths, const ChoiceOptions& options) {
  Choice first{.gemms = {narrowest(Gemm::kFprop, widths), narrowest(Gemm::kBprop, widths),
                         narrowest(Gemm::kWtgrad, widths)}};
  first.seconds = seconds_of(first, timings, layer, options);
  Choice best = first;
  for (const GemmArithmetic fprop : candidates(Gemm::kFprop, widths, options)) {
    for (const GemmArithmetic bprop : candidates(Gemm::kBprop, widths, options)) {
      for (const GemmArithmetic wtgrad : candidates(Gemm::kWtgrad, widths, options)) {
        Choice one{.gemms = {fprop, bprop, wtgrad}};
        one.seconds = seconds_of(one, timings, layer, options);
        if (one.seconds < best.seconds && one.seconds < kMargin * first.seconds) best = one;
      }
    }
  }
  return best;
}

double uniform_seconds(Timings& timings, int layer, GemmArithmetic arithmetic, const ChoiceOptions& options) {
  return seconds_of({.gemms = {arithmetic, arithmetic, arithmetic}}, timings, layer, options);
}

AutoPolicy::AutoPolicy(OptionReader& options)
    : apt_([&] {
        const double T =
            options.number("T", 0.03, 0.0, 0.5, "largest Diff that a width may have (convolutions)");
        const double T_linear = options.number("T_linear", 0.01, 0.0, 0.5, "the same for linear layers");
        const double rate = options.number("quantify_rate", 0.01, 0.0, 1.0,
                                           "share of the first epoch in which every step measures");
        return make_apt(T, T_linear, rate);
      }()) {
  allow_bfloat16_ = options.flag("bfloat16", true, "GEMMs may run in bfloat16 where that is faster");
  range_ = options.choice<RangeSource>("range", "previous",
                                       {{"exact", RangeSource::kExact}, {"previous", RangeSource::kPrevious}},
                                       "range of this very tensor (one more pass), or of the steps before");
  gradient_rounding_ = options.choice<Rounding>(
      "gradient_rounding", "stochastic",
      {{"nearest", Rounding::kNearestEven}, {"stochastic", Rounding::kStochastic}}, "rounding of dY");
  between_ = options.choice<Between>("between", "bfloat16",
                                     {{"float32", Between::kFloat32}, {"bfloat16", Between::kBFloat16}},
                                     "what fused blocks store between their passes");
  options_ = options.resolved();
}

void AutoPolicy::attach(std::span<const LayerInfo> layers) {
  Policy::attach(layers);
  apt_.attach(layers);
  chosen_.assign(layers.size(), {});
}

int AutoPolicy::width(int layer, TensorRole role) const { return apt_.tensor({layer, role}).n; }

Widths AutoPolicy::widths(int layer) const {
  return {.w = width(layer, TensorRole::kWeight),
          .x = width(layer, TensorRole::kInput),
          .dy = width(layer, TensorRole::kGradBprop)};
}

// A width that grew within this step counts at once, a new choice at the end of the step.
GemmArithmetic AutoPolicy::arithmetic(int layer, Gemm gemm, const Widths& widths) const {
  const Layer& chosen = chosen_[static_cast<size_t>(layer)];
  if (chosen.is_bfloat16[index(gemm)]) return GemmArithmetic::kBFloat16;
  return chosen.is_float[index(gemm)] ? GemmArithmetic::kFloat32 : narrowest(gemm, widths);
}

Format AutoPolicy::evaluation_format(TensorId id) const { return format(id, widths(id.layer)); }

Format AutoPolicy::format(TensorId id, const Widths& widths) const {
  bool has_codes = false, is_float32 = false;
  for (const Gemm gemm : readers(id.role, layers_[static_cast<size_t>(id.layer)].is_first)) {
    const GemmArithmetic one = arithmetic(id.layer, gemm, widths);
    has_codes = has_codes || is_integer(one);
    is_float32 = is_float32 || one == GemmArithmetic::kFloat32;
  }
  if (!has_codes) return is_float32 ? Format::float32() : Format::bfloat16();
  Format format;
  const TensorRole tensor = tensor_of(id.role);
  format.word_length = widths.*width_of(tensor);
  // Unsigned 8-bit codes fit what a ReLU leaves; 16 bits need no more range.
  const bool is_unsigned = tensor == TensorRole::kInput && format.word_length <= 8;
  format.rule = is_unsigned ? ScaleRule::kAffine : ScaleRule::kSymmetric;
  format.exact_zero = is_unsigned;
  format.range_source = range_;
  if (tensor == TensorRole::kGradBprop) format.rounding = gradient_rounding_;
  return format;
}

TensorPlan AutoPolicy::plan(TensorId id, const StepInfo& step, TensorProbe& probe) {
  const TensorPlan measured = apt_.plan(id, step, probe);
  TensorPlan plan;
  plan.format = evaluation_format(id);
  if (step.training) announce(id, measured, plan);
  return plan;
}

void AutoPolicy::announce(TensorId id, const TensorPlan& measured, TensorPlan& plan) {
  Layer& layer = chosen_[static_cast<size_t>(id.layer)];
  const auto role = static_cast<size_t>(id.role);
  if (layer.is_announced[role] && layer.announced[role] == plan.format) return;
  const bool is_wider =
      !layer.is_announced[role] || (!plan.format.is_float() && !layer.announced[role].is_float());
  layer.is_announced[role] = true;
  layer.announced[role] = plan.format;
  plan.evidence = {{"bits", to_json(widths(id.layer))}, {"gemms", gemms_of(id.layer, widths(id.layer))}};
  if (is_wider) {
    plan.reason = measured.reason.empty() ? "as many bits as the tensor needs" : measured.reason;
    if (!measured.evidence.is_null()) plan.evidence["apt"] = measured.evidence;
  } else {
    plan.reason = "the fastest for the layer's GEMMs on this machine";
    plan.evidence["chosen_for"] = to_json(layer.measured);
    plan.evidence["ms"] = times_of(id.layer);
  }
}

nlohmann::json AutoPolicy::gemms_of(int layer, const Widths& widths) const {
  nlohmann::json gemms = nlohmann::json::object();
  for (const Gemm gemm : kAllGemms) {
    if (gemm == Gemm::kBprop && layers_[static_cast<size_t>(layer)].is_first) continue;
    gemms[std::string(to_string(gemm))] = to_string(arithmetic(layer, gemm, widths));
  }
  return gemms;
}

ChoiceOptions AutoPolicy::choice_options(int layer) const {
  return {.has_bprop = !layers_[static_cast<size_t>(layer)].is_first,
          .bfloat16 = allow_bfloat16_,
          .between = between_};
}

// All that the present choice was made from.
nlohmann::json AutoPolicy::times_of(int layer) const {
  nlohmann::json times = nlohmann::json::object();
  if (!timings_) return times;
  const ChoiceOptions options = choice_options(layer);
  const Widths& measured = chosen_[static_cast<size_t>(layer)].measured;
  for (const Gemm gemm : kAllGemms) {
    if (gemm == Gemm::kBprop && !options.has_bprop) continue;
    nlohmann::json& one = times[std::string(to_string(gemm))];
    for (const GemmArithmetic arithmetic : candidates(gemm, measured, options)) {
      one[std::string(to_string(arithmetic))] = 1e3 * timings_->gemm(layer, gemm, arithmetic);
    }
  }
  for (const TensorRole role : kOperands) {
    nlohmann::json& one = times[std::string(to_string(role))];
    for (const bool to_bfloat16 : {false, true}) {
      one[to_text(to_bfloat16)] = 1e3 * timings_->convert(layer, role, to_bfloat16);
    }
  }
  return times;
}

// Widths follow from the logged Diffs where this line measured one, the GEMMs from the logged times where it
// chose by them; otherwise both are what other lines led to and this one repeats.
std::optional<TensorPlan> AutoPolicy::redecide(TensorId id, const StepInfo& step,
                                               const nlohmann::json& evidence) {
  if (!evidence.contains("gemms")) return std::nullopt;
  Layer& layer = chosen_.at(static_cast<size_t>(id.layer));
  const Widths widths = widths_from(evidence.at("bits"));
  TensorPlan plan;
  if (evidence.contains("ms")) {
    LoggedTimings timings(evidence.at("ms"));
    choose(id.layer, widths_from(evidence.at("chosen_for")), timings);
  } else {
    for (const Gemm gemm : kAllGemms) {
      const auto chosen = evidence.at("gemms").value(std::string(to_string(gemm)), std::string());
      layer.is_float[index(gemm)] = chosen == to_string(GemmArithmetic::kFloat32);
      layer.is_bfloat16[index(gemm)] = chosen == to_string(GemmArithmetic::kBFloat16);
    }
  }
  plan.evidence["gemms"] = gemms_of(id.layer, widths);
  if (evidence.contains("apt") && id.role == tensor_of(id.role)) {
    const auto measured = apt_.redecide(id, step, evidence.at("apt"));
    Widths again = widths;
    if (measured) again.*width_of(id.role) = measured->format.word_length;
    plan.evidence["bits"] = to_json(again);
  }
  plan.format = format(id, widths);
  return plan;
}

void AutoPolicy::choose(int layer, const Widths& widths, Timings& timings) {
  Layer& chosen = chosen_[static_cast<size_t>(layer)];
  const Choice choice = fastest(timings, layer, widths, choice_options(layer));
  for (const Gemm gemm : kAllGemms) {
    chosen.is_float[index(gemm)] = choice.gemms[index(gemm)] == GemmArithmetic::kFloat32;
    chosen.is_bfloat16[index(gemm)] = choice.gemms[index(gemm)] == GemmArithmetic::kBFloat16;
  }
  chosen.measured = widths;
  chosen.is_chosen = true;
}

void AutoPolicy::end_step(const StepInfo&, const StepReport&) {
  if (!timings_) return;
  for (size_t i = 0; i < chosen_.size(); ++i) {
    const int layer = static_cast<int>(i);
    if (!chosen_[i].is_chosen || chosen_[i].measured != widths(layer))
      choose(layer, widths(layer), *timings_);
  }
}

RunningRange AutoPolicy::running_range(TensorId id) const {
  const bool is_input = tensor_of(id.role) == TensorRole::kInput;
  return {.momentum = is_input ? 0.9 : 0.0};
}

nlohmann::json AutoPolicy::state() const {
  nlohmann::json layers = nlohmann::json::array();
  for (const Layer& layer : chosen_) {
    layers.push_back({{"measured", to_json(layer.measured)},
                      {"chosen", layer.is_chosen},
                      {"float32", layer.is_float},
                      {"bfloat16", layer.is_bfloat16},
                      {"announced", layer.announced},
                      {"is_announced", layer.is_announced}});
  }
  return {{"apt", apt_.state()}, {"layers", std::move(layers)}};
}

void AutoPolicy::load_state(const nlohmann::json& state) {
  const nlohmann::json& layers = state.at("layers");
  require(layers.size() == layers_.size(), "auto", "the saved state has {} layers, the network {}",
          layers.size(), layers_.size());
  apt_.load_state(state.at("apt"));
  std::vector<Layer> loaded(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const nlohmann::json& saved = layers[i];
    loaded[i].measured = widths_from(saved.at("measured"));
    saved.at("chosen").get_to(loaded[i].is_chosen);
    saved.at("float32").get_to(loaded[i].is_float);
    saved.at("bfloat16").get_to(loaded[i].is_bfloat16);
    saved.at("announced").get_to(loaded[i].announced);
    saved.at("is_announced").get_to(loaded[i].is_announced);
  }
  chosen_ = std::move(loaded);
}

}  // namespace bitdial::policies
