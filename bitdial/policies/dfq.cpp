#include "bitdial/policies/dfq.h"

#include <fmt/ranges.h>

#include <cmath>
#include <utility>

#include "bitdial/core/error.h"

namespace bitdial::policies {
namespace {

bool is_weight(TensorRole role) { return role == TensorRole::kWeight; }
bool is_activation(TensorRole role) { return role == TensorRole::kInput || role == TensorRole::kInputWtgrad; }

// The settings of FracTrain's scripts.
struct DfqDefaults {
  std::vector<int> activation{3, 4, 4, 6, 6};
  std::vector<int> gradient{6, 6, 8, 8, 12};
  int weight = 4;
  std::vector<int> features{32, 16};
  int hidden = 16;
  std::string form = "block";
};

DfqDefaults imagenet_defaults() {
  return {.activation = {3, 4, 6, 8},
          .gradient = {6, 8, 12, 16},
          .weight = 6,
          .features = {40},
          .hidden = 20,
          .form = "operand"};
}

}  // namespace

DfqPolicy::DfqPolicy(OptionReader& options) : DfqPolicy(options, {.target = 3.0, .middle = "tenth"}) {}

DfqPolicy::DfqPolicy(OptionReader& options, const Released& released) : quantizer_(options) {
  is_imagenet_ = options.choice<bool>("preset", "cifar", {{"cifar", false}, {"imagenet", true}},
                                      "the released settings for CIFAR or ImageNet: defaults of the "
                                      "options, W's bits, the gate's sizes and form");
  const DfqDefaults defaults = is_imagenet_ ? imagenet_defaults() : DfqDefaults{};
  const auto activation =
      options.integers("activation_options", defaults.activation, 2, 16, "bits of X, one per option");
  const auto gradient =
      options.integers("gradient_options", defaults.gradient, 2, 32, "bits of dY, one per option");
  require(activation.size() == gradient.size(), "policies",
          "{} activation_options and {} gradient_options do not make pairs", activation.size(),
          gradient.size());
  for (size_t i = 0; i < activation.size(); ++i) choices_.push_back({activation[i], gradient[i]});
  weight_bits_ = options.integer("weight_bits", defaults.weight, 2, 16, "word length of W, constant");
  request_.options = static_cast<int>(choices_.size());
  request_.form = options.choice<GateForm>(
      "gate_form", defaults.form, {{"block", GateForm::kBlock}, {"operand", GateForm::kOperand}},
      "a block runs once per option and its outputs are mixed, or the operands of its products are mixed");
  request_.is_exact = options.choice<bool>(
      "gate", "exact", {{"exact", true}, {"chosen", false}},
      "the gate learns from all options, or each sample runs its own only and the gate learns from that");
  const auto features = options.integers("gate_features", defaults.features, 1, 4096,
                                         "channels of the gate's 1x1 convolutions");
  request_.features.assign(features.begin(), features.end());
  request_.hidden = options.integer("gate_hidden", defaults.hidden, 1, 4096, "units of the gate's LSTM");
  beta_ = options.number("beta", 1e-3, 0.0, 1.0, "weight of the cost term");
  if (released.target) {
    target_ =
        options.number("target", *released.target, 0.0, 100.0, "target of the cost in percent of float32's");
  }
  relax_ = options.number("relax", 0.0, 0.0, 100.0, "half width of the zone around the target, in percent");
  middle_ = options.choice<dfq::Middle>("middle", released.middle,
                                        {{"tenth", dfq::Middle::kTenth}, {"zero", dfq::Middle::kZero}},
                                        "sign of the cost term within that zone: 0.1 by side, or 0 above the "
                                        "target and -1 below");
  is_capped_ = options.flag("ada_beta", false, "cap the cost term at a tenth of the task loss");
  nominal_batch_ = options.integer("nominal_batch", 0, 0, 1 << 20,
                                   "samples that the cost is divided by (released: 128); 0: the batch's own");
  log_every_ = options.integer("log_every", 390, 1, 1 << 30, "steps between two lines on the gate's choices");
  keep_options(options);
}

void DfqPolicy::attach(std::span<const LayerInfo> layers) {
  Policy::attach(layers);
  quantizer_.attach(layers);
  announced_.assign(layers.size(), {});
  is_gated_.assign(layers.size(), false);
}

Format DfqPolicy::evaluation_format(TensorId id) const {
  if (id.option == kNoOption) return Format::float32();
  const dfq::Option option = choices_.at(static_cast<size_t>(id.option));
  return quantizer_.format(
      id, {.forward = is_weight(id.role) ? weight_bits_ : option.activation, .gradient = option.gradient});
}

TensorPlan DfqPolicy::plan(TensorId id, const StepInfo& step, TensorProbe&) {
  TensorPlan plan;
  plan.format = evaluation_format(id);
  if (id.option != kNoOption) is_gated_.at(static_cast<size_t>(id.layer)) = true;
  bool& announced = announced_.at(static_cast<size_t>(id.layer))[static_cast<size_t>(id.role)];
  if (step.training && !announced) {
    announced = true;
    plan.reason = why(id, plan.format);
    plan.evidence = {{"format", to_string(plan.format)}};
    if (id.option != kNoOption) plan.evidence["option"] = id.option;
  } else if (step.training && !report_.is_null() && id.option != kNoOption) {
    plan.reason = fmt::format("the gate's choices cost {:.3f} % of float32, target {} %",
                              report_.at("cp").get<double>(), report_.at("target").get<double>());
    plan.evidence = std::exchange(report_, {});
    plan.evidence["option"] = id.option;
  }
  return plan;
}

// The shares of the options, which the gate decided, give cp; the sign follows from it and the target.
std::optional<TensorPlan> DfqPolicy::redecide(TensorId id, const StepInfo&, const nlohmann::json& evidence) {
  id.option = evidence.value("option", kNoOption);
  TensorPlan plan;
  plan.format = evaluation_format(id);
  if (!evidence.contains("shares")) return plan;
  const auto shares = evidence.at("shares").get<std::vector<double>>();
  require(shares.size() == choices_.size(), "dfq", "the log has {} options, the recipe {}", shares.size(),
          choices_.size());
  double cost = 0.0;
  for (size_t k = 0; k < shares.size(); ++k) cost += shares[k] * dfq::cost_percent(choices_[k], weight_bits_);
  const double target = target_again(evidence);
  // A nominal batch is not that of the shares: cp is then the logged one.
  if (nominal_batch_ == 0) plan.evidence["cp"] = cost;
  plan.evidence["target"] = target;
  plan.evidence["r"] = dfq::sign_of(evidence.at("cp").get<double>(), target, relax_, middle_);
  return plan;
}

std::string DfqPolicy::why(TensorId id, const Format& format) const {
  if (id.option == kNoOption) return "outside of residual blocks nothing is quantised";
  if (format.is_float()) return "this layer is not quantised";
  if (is_weight(id.role)) return "the same in every option";
  std::vector<int> bits;
  for (int option = 0; option < request_.options; ++option) {
    bits.push_back(evaluation_format({id.layer, id.role, option}).word_length);
  }
  return fmt::format("the gate chooses among {} bits", fmt::join(bits, ", "));
}

nlohmann::json DfqPolicy::numbers() const {
  return {{"cp", last_.cost},   {"target", target_},      {"r", last_.r},
          {"term", last_.term}, {"shares", last_.shares}, {"beta", beta_}};
}

// L = L_task + r beta C with C = sum over blocks, options and samples of m cost(option).
std::vector<double> DfqPolicy::weigh_gate(const GateUse& use, const StepInfo& step) {
  const double batch = nominal_batch_ > 0 ? nominal_batch_ : static_cast<double>(use.batch);
  last_.cost = dfq::cost_percent(use.samples, choices_, weight_bits_, batch);
  last_.r = dfq::sign_of(last_.cost, target_, relax_, middle_);
  last_.term = 0.0;
  last_.shares.assign(choices_.size(), 0.0);
  std::vector<double> weights(use.samples.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const size_t option = i % choices_.size();
    weights[i] = last_.r * beta_ * dfq::cost_of(choices_[option], weight_bits_).sum();
    last_.term += weights[i] * use.samples[i];
    last_.shares[option] += use.samples[i] / static_cast<double>(use.batch * use.blocks);
  }
  const double most = use.task_loss / 10.0;
  if (is_capped_ && std::fabs(last_.term) > most) {
    for (double& weight : weights) weight *= most / std::fabs(last_.term);
    last_.term = std::copysign(most, last_.term);
  }
  // One batch's numbers and the target that they were compared with.
  if (wants_report_ || step.step % log_every_ == 0) report_ = numbers();
  wants_report_ = false;
  return weights;
}

std::optional<double> DfqPolicy::mean_bits(TensorId id) const {
  if (is_weight(id.role) || last_.shares.empty()) return std::nullopt;
  if (!is_gated_.at(static_cast<size_t>(id.layer)) || !quantizer_.quantizes(id.layer)) return std::nullopt;
  double bits = 0.0;
  for (size_t i = 0; i < choices_.size(); ++i) {
    bits += last_.shares[i] * (is_activation(id.role) ? choices_[i].activation : choices_[i].gradient);
  }
  return bits;
}

nlohmann::json DfqPolicy::state() const {
  return {{"announced", announced_}, {"gated", is_gated_},
          {"cp", last_.cost},        {"r", last_.r},
          {"term", last_.term},      {"shares", last_.shares},
          {"report", report_},       {"wants_report", wants_report_}};
}

void DfqPolicy::load_state(const nlohmann::json& state) {
  auto announced = state.at("announced").get<std::vector<std::array<bool, kTensorRoles>>>();
  require(announced.size() == layers_.size(), "policies", "the saved state has {} layers, the network {}",
          announced.size(), layers_.size());
  announced_ = std::move(announced);
  state.at("gated").get_to(is_gated_);
  state.at("cp").get_to(last_.cost);
  state.at("r").get_to(last_.r);
  state.at("term").get_to(last_.term);
  state.at("shares").get_to(last_.shares);
  report_ = state.at("report");
  state.at("wants_report").get_to(wants_report_);
}

}  // namespace bitdial::policies
