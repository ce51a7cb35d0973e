#include "bitdial/policies/apt.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "bitdial/core/error.h"

namespace bitdial::policies {
namespace {

constexpr std::array<const char*, 3> kTensorNames{"w", "x", "dy"};

// X and the X of WTGRAD are one tensor, so are both gradients.
size_t slot(TensorRole role) {
  switch (role) {
    case TensorRole::kWeight:
      return 0;
    case TensorRole::kInput:
    case TensorRole::kInputWtgrad:
      return 1;
    case TensorRole::kGradBprop:
    case TensorRole::kGradWtgrad:
      return 2;
    case TensorRole::kOutput:
    case TensorRole::kGradInput:
      break;  // never asked for
  }
  fail("apt", "unknown tensor role {}", static_cast<int>(role));
}

unsigned bit(TensorRole role) { return 1U << static_cast<unsigned>(role); }

}  // namespace

// The numbers behind one decision.
struct AptPolicy::Measurement {
  double Z = 0.0;                             // max |x|
  double T = 0.0;                             // threshold
  std::vector<std::pair<int, double>> diffs;  // Diff of every width tried, the last is the chosen one's
  double I1 = 0.0, I2 = 0.0;
  int64_t interval = 1;
  const char* cause = "scheduled";
  double saturated = 0.0;  // what forced the measurement, if anything

  double diff() const { return diffs.back().second; }
};

AptPolicy::AptPolicy(OptionReader& options)
    : alpha_(
          options.number("alpha", 0.04, 0.0, 0.4, "weight of the newest exponent in its moving average M")),
      beta_(options.number("beta", 0.1, 0.0, 1.0, "interval: beta / max(I1, I2) - gamma")),
      gamma_(options.number("gamma", 2.0, 0.0, 100.0, "interval: steps taken off")),
      delta_(options.number("delta", 100.0, 0.0, 1000.0, "I2 = delta * Diff^2")),
      T_conv_(options.number("T", 0.03, 0.0, 0.5, "largest Diff that a width may have (convolutions)")),
      T_linear_(options.number("T_linear", 0.01, 0.0, 0.5, "the same for linear layers")),
      n0_(options.integer("n0", 8, 2, 24, "initial width")),
      n_max_(options.integer("n_max", 24, 2, 31, "largest width; above 16 codes are carried in float32")),
      increment_(options.integer("increment", 8, 1, 16, "bits added when a tensor is widened")),
      quantify_rate_(options.number("quantify_rate", 0.01, 0.0, 1.0,
                                    "share of the first epoch in which every step measures")),
      steps_per_epoch_(
          options.number_or_word("steps_per_epoch", std::nullopt, "run", 1.0, 1e9,
                                 "E of the interval rule; run: the run's own (vendor default 10000)")),
      M0_(options.number_or_word("M0", 100.0, "first_s", -1e3, 1e3,
                                 "first value of M; first_s: the first exponent")),
      exponent_rule_(options.choice<ScaleRule>(
          "exponent_rule", "ceil",
          {{"ceil", ScaleRule::kPowerOfTwo}, {"vendor", ScaleRule::kPowerOfTwoVendor}},
          "s = ceil(log2(Z / (2^(n-1) - 1))), or floor(log2 Z) - (n - 2)")),
      error_grid_(options.choice<ScaleRule>(
          "error_grid", "own", {{"own", ScaleRule::kPowerOfTwo}, {"symmetric", ScaleRule::kSymmetric}},
          "Diff is measured with the step 2^s, or with Z / (2^(n-1) - 1), that of symmetric formats")),
      restart_(
          options.choice<bool>("width_mode", "monotone", {{"monotone", false}, {"restart", true}},
                               "widths never fall (Mode2), or every measurement starts from n0 (Mode1)")),
      I1_new_(options.choice<bool>("I1", "prev", {{"prev", false}, {"new", true}},
                                   "I1 = alpha * |s - M| with M before or after it takes s in")),
      truncate_(options.choice<bool>("interval_rounding", "round", {{"round", false}, {"trunc", true}},
                                     "how the interval becomes a whole number")),
      saturation_guard_(options.choice<bool>("saturation_guard", "on", {{"on", true}, {"off", false}},
                                             "measure anew when a stale step saturates too much")),
      saturation_fraction_(
          options.number("saturation_fraction", 1e-3, 0.0, 1.0, "share that trips the guard")),
      log_all_(options.flag("log_all", false, "log measurements that changed nothing, too")),
      options_(options.resolved()) {
  require(n0_ <= n_max_, "policies", "option \"n0\" of \"apt\" must be at most n_max = {}, got {}", n_max_,
          n0_);
}

void AptPolicy::attach(std::span<const LayerInfo> layers) {
  Policy::attach(layers);
  Tensor fresh;
  fresh.n = n0_;
  fresh.M = M0_.value_or(0.0);
  tensors_.assign(layers.size(), {fresh, fresh, fresh});
}

const AptPolicy::Tensor& AptPolicy::tensor(TensorId id) const {
  return tensors_.at(static_cast<size_t>(id.layer))[slot(id.role)];
}

AptPolicy::Tensor& AptPolicy::mutable_tensor(TensorId id) {
  return tensors_.at(static_cast<size_t>(id.layer))[slot(id.role)];
}

TensorPlan AptPolicy::plan(TensorId id, const StepInfo& step, TensorProbe& probe) {
  Tensor& tensor = mutable_tensor(id);
  TensorPlan plan;
  if (step.training && !reuses_quantized(tensor, id.role, step)) {
    const Tensor before = tensor;
    tensor.fresh = measures(tensor, step.step);
    if (tensor.fresh) {
      const Measurement measurement = measure(tensor, id, step, probe);
      explain(before, tensor, measurement, plan);
    }
    // M follows s once per optimiser step, on steps without measurement too (with the stored s).
    if (before.last_step != step.step) tensor.M = alpha_ * tensor.s + (1.0 - alpha_) * tensor.M;
    tensor.last_step = step.step;
    tensor.last_micro_batch = step.micro_batch;
    tensor.asked = bit(id.role);
  }
  plan.format = format(tensor.n);
  // Before its first measurement a tensor has no step of its own: the format's rule serves.
  if (tensor.measured) plan.params = QuantParams{.scale = std::ldexp(1.0F, tensor.s)};
  return plan;
}

// dY is quantised once and read by BPROP and WTGRAD, X by FPROP and WTGRAD: the second role asks for what the
// first was given. A role that asks again (next step, next micro-batch, shared layer) brings a new tensor.
bool AptPolicy::reuses_quantized(Tensor& tensor, TensorRole role, const StepInfo& step) const {
  const bool same_batch = tensor.last_step == step.step && tensor.last_micro_batch == step.micro_batch;
  if (!same_batch || tensor.asked == 0 || (tensor.asked & bit(role))) return false;
  tensor.asked |= bit(role);
  return true;
}

bool AptPolicy::measures(const Tensor& tensor, int64_t step) const {
  return !tensor.measured || step >= tensor.next || tensor.saturated > 0.0;
}

AptPolicy::Measurement AptPolicy::measure(Tensor& tensor, TensorId id, const StepInfo& step,
                                          TensorProbe& probe) const {
  Measurement measurement;
  measurement.T = threshold(id.layer);
  measurement.saturated = tensor.saturated;
  if (!tensor.measured) {
    measurement.cause = "first";
  } else if (step.step < tensor.next) {
    measurement.cause = "saturation";
  }
  if (restart_) {
    tensor.M += tensor.n - n0_;
    tensor.n = n0_;
  }
  widen(tensor, id, step, measurement, probe);
  if (!tensor.measured && !M0_) tensor.M = tensor.s;
  schedule(tensor, step, measurement);
  tensor.measured = true;
  tensor.saturated = 0.0;
  return measurement;
}

// QEM and the width part of QPA: widen while Diff > T and n < n_max.
void AptPolicy::widen(Tensor& tensor, TensorId id, const StepInfo& step, Measurement& measurement,
                      TensorProbe& probe) const {
  const Range range = probe.range();
  const float Z = range.absmax();
  require(std::isfinite(range.min) && std::isfinite(range.max), "apt",
          "layer \"{}\": the range of {} is not finite at step {}",
          layers_[static_cast<size_t>(id.layer)].name, to_string(id.role), step.step);
  measurement.Z = static_cast<double>(Z);
  while (true) {
    tensor.s = power_of_two_exponent(exponent_rule_, Z, tensor.n);
    const double diff =
        quantization_error(probe.abs_sum(), probe.quantized_abs_sum(tensor.n, error_step(Z, tensor)));
    measurement.diffs.emplace_back(tensor.n, diff);
    if (!(diff > measurement.T) || tensor.n >= n_max_) return;
    const int wider = std::min(tensor.n + increment_, n_max_);
    tensor.M -= wider - tensor.n;  // one step of the loop lowers s by as much
    tensor.n = wider;
  }
}

float AptPolicy::error_step(float Z, const Tensor& tensor) const {
  if (error_grid_ == ScaleRule::kPowerOfTwo) return std::ldexp(1.0F, tensor.s);
  const Format symmetric{.rule = ScaleRule::kSymmetric, .word_length = tensor.n};
  return choose_params(symmetric, {-Z, Z}).scale;
}

// The interval part of QPA. Phases: every step at first, then the self-set interval, from the second epoch on
// once per epoch.
void AptPolicy::schedule(Tensor& tensor, const StepInfo& step, Measurement& measurement) const {
  const int64_t t = step.step;
  const int64_t E =
      steps_per_epoch_ ? static_cast<int64_t>(*steps_per_epoch_) : std::max<int64_t>(step.steps_per_epoch, 1);
  const double new_M = alpha_ * tensor.s + (1.0 - alpha_) * tensor.M;
  measurement.I1 = alpha_ * std::fabs(tensor.s - (I1_new_ ? new_M : tensor.M));
  measurement.I2 = delta_ * measurement.diff() * measurement.diff();
  if (static_cast<double>(t) < quantify_rate_ * static_cast<double>(E)) {
    measurement.interval = 1;
  } else {
    measurement.interval = t < E ? interval(measurement.I1, measurement.I2, E) : E;
  }
  tensor.next = t + measurement.interval;
}

double AptPolicy::quantization_error(double abs_sum, double quantized_abs_sum) {
  if (abs_sum == 0.0) return 0.0;
  return std::log2(std::fabs(abs_sum - quantized_abs_sum) / abs_sum + 1.0);
}

int64_t AptPolicy::interval(double I1, double I2, int64_t E) const {
  const double change = std::max(I1, I2);
  if (change == 0.0) return E;
  const double steps = beta_ / change - gamma_;
  const double whole = truncate_ ? std::trunc(steps) : std::nearbyint(steps);
  return static_cast<int64_t>(std::clamp(whole, 1.0, static_cast<double>(E)));
}

void AptPolicy::explain(const Tensor& before, const Tensor& after, const Measurement& measurement,
                        TensorPlan& plan) const {
  const bool changed = !before.measured || before.n != after.n || before.s != after.s;
  if (!changed && !log_all_) return;
  if (before.n != after.n) {
    const double diff = before.n < after.n ? measurement.diffs.front().second : measurement.diff();
    plan.reason = fmt::format("{} from {} to {} bits: Diff {:.4g} {} T {:g}",
                              before.n < after.n ? "widened" : "narrowed", before.n, after.n, diff,
                              diff > measurement.T ? ">" : "<=", measurement.T);
  } else if (!before.measured) {
    plan.reason = fmt::format("first measurement: Diff {:.4g} at {} bits", measurement.diff(), after.n);
  } else if (before.s != after.s) {
    plan.reason = fmt::format("range moved: step 2^{} to 2^{}", before.s, after.s);
  } else {
    plan.reason = fmt::format("measured, nothing changed: Diff {:.4g}", measurement.diff());
  }
  if (measurement.cause == std::string_view("saturation")) {
    plan.reason += fmt::format("; {:.2g} % had saturated", 100.0 * measurement.saturated);
  }
  nlohmann::json diffs = nlohmann::json::object();
  for (const auto& [n, diff] : measurement.diffs) diffs[std::to_string(n)] = diff;
  plan.evidence = {{"cause", measurement.cause}, {"Z", measurement.Z},   {"diff", diffs},
                   {"T", measurement.T},         {"s", after.s},         {"M", after.M},
                   {"I1", measurement.I1},       {"I2", measurement.I2}, {"interval", measurement.interval}};
}

// The loop of QEM and the intervals of QPA over the logged Z, Diffs and M. A line without them is that of a
// second role, which gets what its tensor had.
std::optional<TensorPlan> AptPolicy::redecide(TensorId id, const StepInfo& step,
                                              const nlohmann::json& evidence) {
  Tensor& known = mutable_tensor(id);
  if (!evidence.contains("diff")) {
    TensorPlan plan{.format = format(known.n), .params = {}, .reason = {}, .evidence = {}};
    if (known.measured) plan.params = QuantParams{.scale = std::ldexp(1.0F, known.s)};
    return plan;
  }
  std::map<int, double> diffs;
  for (const auto& [width, diff] : evidence.at("diff").items()) diffs[std::stoi(width)] = diff.get<double>();
  require(!diffs.empty(), "apt", "a decision without any Diff");
  Measurement measurement;
  measurement.T = threshold(id.layer);
  Tensor tensor;
  tensor.n = diffs.begin()->first;
  while (diffs.contains(tensor.n) && diffs.at(tensor.n) > measurement.T && tensor.n < n_max_)
    tensor.n = std::min(tensor.n + increment_, n_max_);
  // A width that was not tried has no Diff: the answer then differs from the log in its bits.
  const auto tried = diffs.find(tensor.n);
  measurement.diffs.emplace_back(tensor.n, tried == diffs.end() ? 0.0 : tried->second);
  tensor.s = power_of_two_exponent(exponent_rule_, evidence.at("Z").get<float>(), tensor.n);
  tensor.M = evidence.at("M").get<double>();
  schedule(tensor, step, measurement);
  tensor.measured = true;
  known = tensor;
  TensorPlan plan;
  plan.format = format(tensor.n);
  plan.params = QuantParams{.scale = std::ldexp(1.0F, tensor.s)};
  plan.evidence = {{"T", measurement.T},
                   {"s", tensor.s},
                   {"I1", measurement.I1},
                   {"I2", measurement.I2},
                   {"interval", measurement.interval}};
  return plan;
}

void AptPolicy::observe(TensorId id, const StepInfo& step, const QuantizeStatistics& statistics) {
  Tensor& tensor = mutable_tensor(id);
  // What saturates under a step just measured is the rule's own clipping (vendor rule), not a stale range.
  if (!saturation_guard_ || !step.training || tensor.fresh || !tensor.measured) return;
  const double fraction = statistics.saturated_fraction();
  if (fraction > saturation_fraction_) tensor.saturated = std::max(tensor.saturated, fraction);
}

Format AptPolicy::evaluation_format(TensorId id) const { return format(tensor(id).n); }

Format AptPolicy::format(int word_length) const {
  Format format;
  format.rule = exponent_rule_;
  format.word_length = word_length;
  return format;
}

double AptPolicy::threshold(int layer) const {
  return layers_[static_cast<size_t>(layer)].kind == LayerKind::kLinear ? T_linear_ : T_conv_;
}

nlohmann::json AptPolicy::state() const {
  nlohmann::json layers = nlohmann::json::array();
  for (size_t i = 0; i < tensors_.size(); ++i) {
    nlohmann::json layer = {{"name", layers_[i].name}};
    for (size_t k = 0; k < kTensorNames.size(); ++k) {
      const Tensor& tensor = tensors_[i][k];
      layer[kTensorNames[k]] = {{"n", tensor.n},
                                {"s", tensor.s},
                                {"M", tensor.M},
                                {"next", tensor.next},
                                {"measured", tensor.measured},
                                {"fresh", tensor.fresh},
                                {"saturated", tensor.saturated},
                                {"last_step", tensor.last_step},
                                {"last_micro_batch", tensor.last_micro_batch},
                                {"asked", tensor.asked}};
    }
    layers.push_back(std::move(layer));
  }
  return {{"layers", std::move(layers)}};
}

void AptPolicy::load_state(const nlohmann::json& state) {
  const nlohmann::json& layers = state.at("layers");
  require(layers.size() == layers_.size(), "apt", "the saved state has {} layers, the network {}",
          layers.size(), layers_.size());
  std::vector<std::array<Tensor, 3>> loaded(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto name = layers[i].at("name").get<std::string>();
    require(name == layers_[i].name, "apt", "layer {} of the saved state is \"{}\", of the network \"{}\"", i,
            name, layers_[i].name);
    for (size_t k = 0; k < kTensorNames.size(); ++k) {
      const nlohmann::json& saved = layers[i].at(kTensorNames[k]);
      Tensor& tensor = loaded[i][k];
      saved.at("n").get_to(tensor.n);
      saved.at("s").get_to(tensor.s);
      saved.at("M").get_to(tensor.M);
      saved.at("next").get_to(tensor.next);
      saved.at("measured").get_to(tensor.measured);
      saved.at("fresh").get_to(tensor.fresh);
      saved.at("saturated").get_to(tensor.saturated);
      saved.at("last_step").get_to(tensor.last_step);
      saved.at("last_micro_batch").get_to(tensor.last_micro_batch);
      saved.at("asked").get_to(tensor.asked);
    }
  }
  tensors_ = std::move(loaded);
}

}  // namespace bitdial::policies
