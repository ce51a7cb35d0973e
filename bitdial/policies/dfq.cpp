#include "bitdial/policies/dfq.h"

#include <fmt/ranges.h>

#include <algorithm>
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

const DfqDefaults kCifar{};
const DfqDefaults kMobileNetV2{.features = {64, 32}, .hidden = 32};
const DfqDefaults kImageNet{.activation = {3, 4, 6, 8},
                            .gradient = {6, 8, 12, 16},
                            .weight = 6,
                            .features = {40},
                            .hidden = 20,
                            .form = "operand"};

}  // namespace

DfqPolicy::DfqPolicy(OptionReader& options) : DfqPolicy(options, {.target = 3.0, .middle = "tenth"}) {}

DfqPolicy::Preset DfqPolicy::read_preset(OptionReader& options) {
  return options.choice<Preset>(
      "preset", "cifar",
      {{"cifar", Preset::kCifar}, {"mobilenet-v2", Preset::kMobileNetV2}, {"imagenet", Preset::kImageNet}},
      "the released settings for CIFAR ResNets, MobileNetV2 or ImageNet: defaults of the options, W's bits, "
      "the gate's sizes and form");
}

DfqPolicy::DfqPolicy(OptionReader& options, const Released& released)
    : preset_(read_preset(options)),
      quantizer_(options, preset_ == Preset::kImageNet ? SharedLayers::kImageNet : SharedLayers::kAuto) {
  const DfqDefaults& defaults = preset_ == Preset::kImageNet      ? kImageNet
                                : preset_ == Preset::kMobileNetV2 ? kMobileNetV2
                                                                  : kCifar;
  const auto activation =
      options.integers("activation_options", defaults.activation, 0, 16,
                       "bits of X (2-16), one per option; 0, with 0 bits of dY: the block is skipped");
  const auto gradient = options.integers("gradient_options", defaults.gradient, 0, 32,
                                         "bits of dY (2-32), one per option; 0: the block is skipped");
  keep_choices(activation, gradient);
  weight_bits_ = options.integer("weight_bits", defaults.weight, 2, 16, "word length of W, constant");
  request_.form = options.choice<GateForm>(
      "gate_form", defaults.form, {{"block", GateForm::kBlock}, {"operand", GateForm::kOperand}},
      "a block runs once per option and its outputs are mixed, or the operands of its products are mixed");
  require(
      request_.form == GateForm::kBlock || std::ranges::find(request_.skips, true) == request_.skips.end(),
      "policies", "an option of 0 bits skips its block, which gate_form = \"operand\" cannot");
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

void DfqPolicy::keep_choices(const std::vector<int>& activation, const std::vector<int>& gradient) {
  require(activation.size() == gradient.size(), "policies",
          "{} activation_options and {} gradient_options do not make pairs", activation.size(),
          gradient.size());
  for (size_t i = 0; i < activation.size(); ++i) {
    const bool is_skip = activation[i] == 0 && gradient[i] == 0;
    require(is_skip || (activation[i] >= 2 && gradient[i] >= 2), "policies",
            "option {} of the gate has {} bits of X and {} of dY: expected at least 2 in both, or 0 in both",
            i + 1, activation[i], gradient[i]);
    choices_.push_back({activation[i], gradient[i]});
    request_.skips.push_back(is_skip);
  }
  request_.options = static_cast<int>(choices_.size());
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
  const double target = target_again(evidence);
  plan.evidence["cp"] = cost_again(evidence);
  plan.evidence["target"] = target;
  plan.evidence["r"] = dfq::sign_of(evidence.at("cp").get<double>(), target, relax_, middle_);
  return plan;
}

double DfqPolicy::cost_again(const nlohmann::json& evidence) const {
  const char* key = evidence.contains("weighted_shares") ? "weighted_shares" : "shares";
  const auto shares = evidence.at(key).get<std::vector<double>>();
  require(shares.size() == choices_.size(), "dfq", "the log has {} options, the recipe {}", shares.size(),
          choices_.size());
  // A batch of 1 on one block of size 1 that stands for all.
  double samples = 1.0;
  if (nominal_batch_ > 0) samples = evidence.at("batch").get<double>() / nominal_batch_;
  std::vector<double> all;
  for (const double share : shares) all.push_back(samples * share);
  return dfq::cost_percent(all, choices_, weight_bits_, 1.0,
                           {.sizes = {1.0}, .constant = evidence.value("constant", 0.0)});
}

std::string DfqPolicy::why(TensorId id, const Format& format) const {
  if (id.option == kNoOption) return "outside of residual blocks nothing is quantised";
  if (format.is_float()) return "this layer is not quantised";
  if (is_weight(id.role)) return "the same in every option";
  std::vector<int> bits;
  for (int option = 0; option < request_.options; ++option) {
    bits.push_back(request_.can_skip(option) ? 0
                                             : evaluation_format({id.layer, id.role, option}).word_length);
  }
  return fmt::format("the gate chooses among {} bits", fmt::join(bits, ", "));
}

nlohmann::json DfqPolicy::numbers() const {
  nlohmann::json all = {{"cp", last_.cost},   {"target", target_},      {"r", last_.r},
                        {"term", last_.term}, {"shares", last_.shares}, {"beta", beta_}};
  if (!last_.weighted_shares.empty()) {
    all["weighted_shares"] = last_.weighted_shares;
    all["constant"] = last_.constant;
  }
  if (nominal_batch_ > 0) all["batch"] = last_.batch;
  return all;
}

dfq::BlockSizes DfqPolicy::sizes_of(const GateUse& use) const {
  const auto count = static_cast<size_t>(use.blocks);
  if (use.macs.empty()) return {.sizes = std::vector<double>(count, 1.0)};
  dfq::BlockSizes blocks{.sizes = use.macs};
  for (size_t i = 0; i < count; ++i) {
    if (quantizer_.fixes_depthwise()) {
      blocks.constant += dfq::depthwise_cost(use.depthwise_macs.at(i));
    } else {
      blocks.sizes[i] += use.depthwise_macs.at(i);
    }
  }
  return blocks;
}

// L = L_task + r beta C / mean(O) with C = sum over blocks, options and samples of m cost(option) O.
std::vector<double> DfqPolicy::weigh_gate(const GateUse& use, const StepInfo& step) {
  const dfq::BlockSizes blocks = sizes_of(use);
  const double all = blocks.sum();
  const double mean = all / use.blocks;
  last_.batch = static_cast<double>(use.batch);
  last_.cost = dfq::cost_percent(use.samples, choices_, weight_bits_,
                                 nominal_batch_ > 0 ? nominal_batch_ : last_.batch, blocks);
  last_.r = dfq::sign_of(last_.cost, target_, relax_, middle_);
  // The constant moves no choice, but the cap sees it.
  last_.term = last_.r * beta_ * last_.batch * blocks.constant / mean;
  last_.constant = blocks.constant / all;
  last_.shares.assign(choices_.size(), 0.0);
  last_.weighted_shares.assign(use.macs.empty() ? 0 : choices_.size(), 0.0);
  std::vector<double> weights(use.samples.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const size_t option = i % choices_.size();
    const double size = blocks.sizes[i / choices_.size()];
    weights[i] = last_.r * beta_ * dfq::cost_of(choices_[option], weight_bits_).sum() * size / mean;
    last_.term += weights[i] * use.samples[i];
    last_.shares[option] += use.samples[i] / (last_.batch * use.blocks);
    if (!use.macs.empty()) last_.weighted_shares[option] += use.samples[i] * size / (last_.batch * all);
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

bool DfqPolicy::is_chosen(int layer) const {
  return !last_.shares.empty() && is_gated_.at(static_cast<size_t>(layer)) && !quantizer_.is_fixed(layer);
}

std::optional<double> DfqPolicy::mean_bits(TensorId id) const {
  if (is_weight(id.role) || !is_chosen(id.layer)) return std::nullopt;
  return mean([&](const dfq::Option& choice) {
    return is_activation(id.role) ? choice.activation : choice.gradient;
  });
}

double DfqPolicy::bits_covariance(int layer) const {
  if (!is_chosen(layer)) return 0.0;
  const auto x = [](const dfq::Option& choice) { return choice.activation; };
  const auto dy = [](const dfq::Option& choice) { return choice.gradient; };
  const double product = mean([&](const dfq::Option& choice) { return x(choice) * dy(choice); });
  return product - mean(x) * mean(dy);
}

nlohmann::json DfqPolicy::state() const {
  return {{"announced", announced_},
          {"gated", is_gated_},
          {"cp", last_.cost},
          {"r", last_.r},
          {"term", last_.term},
          {"shares", last_.shares},
          {"batch", last_.batch},
          {"constant", last_.constant},
          {"weighted_shares", last_.weighted_shares},
          {"report", report_},
          {"wants_report", wants_report_}};
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
  state.at("batch").get_to(last_.batch);
  state.at("constant").get_to(last_.constant);
  state.at("weighted_shares").get_to(last_.weighted_shares);
  report_ = state.at("report");
  state.at("wants_report").get_to(wants_report_);
}

}  // namespace bitdial::policies
