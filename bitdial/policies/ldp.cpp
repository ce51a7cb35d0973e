#include "bitdial/policies/ldp.h"

#include <algorithm>
#include <cmath>

#include "bitdial/core/error.h"

namespace bitdial::policies {
namespace {

constexpr double kMeanMomentum = 0.9;  // of mu, in the released code

}  // namespace

LdpPolicy::LdpPolicy(OptionReader& options) : SharedPolicy(options) {
  range_.min = options.integer("min_bits", 3, 2, 16, "Bmin: forward bits at beta = 0");
  range_.max = options.integer("max_bits", 8, 2, 16, "Bmax: forward bits at beta = 1");
  require(range_.min <= range_.max, "policies",
          "option \"max_bits\" of \"ldp\" must be at least min_bits = {}, got {}", range_.min, range_.max);
  gradient_bits_ = options.integer("gradient_bits", 8, 2, 32, "word length of dY, constant");
  beta0_ = options.number("beta0", 0.0, -0.1, 1.1, "first beta of every layer");
  learning_rate_ = options.number("lr_beta", 0.1, 0.0, 1000.0,
                                  "learning rate of beta, constant; runs below 20 epochs need about 1");
  alpha_ = options.number("alpha", 1.0, 0.0, 100.0, "weight of the cost penalty; 1: as strong as the task");
  limit_ = options.number("T", 0.6, 0.0, 1.0, "limit of the cost, relative to max_bits everywhere");
  scope_ = options.choice<ldp::CostScope>(
      "cost_scope", "fw+bw", {{"fw+bw", ldp::CostScope::kForwardBackward}, {"fw", ldp::CostScope::kForward}},
      "the cost counts all three products of a step (released code) or FPROP (the paper's text)");
  cost_gradient_ = options.choice<ldp::CostGradient>(
      "cost_grad", "structure",
      {{"structure", ldp::CostGradient::kStructure}, {"eq4", ldp::CostGradient::kEquation4}},
      "the penalty grows with a layer's MACs (released code), or with MACs times bits (equation 4)");
  mean_is_ema_ = options.choice<bool>("gT_mean", "instant", {{"instant", false}, {"ema", true}},
                                      "task gradient that the penalty is balanced with: this step's mean, or "
                                      "its moving average 0.9 over steps above the limit (released code)");
  clamps_every_step_ = options.choice<bool>(
      "clamp", "epoch_reset", {{"epoch_reset", false}, {"step", true}},
      "beta above 1.1 or below -0.1 is set back to 1 or 0 after an epoch, or kept in 0 .. 1 at every step");
  residual_ = options.choice<KeptResidual>("residual", "float",
                                           {{"float", KeptResidual::kFloat32},
                                            {"int8", KeptResidual::kInt8},
                                            {"recompute", KeptResidual::kRecompute}},
                                           "rounding errors of X until backward: stored in 4 bytes or 1 byte "
                                           "an element, or computed again from X");
  logs_all_ = options.flag("log_all", false, "log beta and its gradients at every step");
  keep_options(options);
}

void LdpPolicy::attach(std::span<const LayerInfo> layers) {
  SharedPolicy::attach(layers);
  learnt_.assign(layers.size(), {.beta = beta0_});
}

SharedBits LdpPolicy::wanted_bits(int layer) const {
  return {.forward = ldp::bits_of(beta(layer), range_), .gradient = gradient_bits_};
}

TensorPlan LdpPolicy::plan(TensorId id, const StepInfo& step, TensorProbe& probe) {
  TensorPlan plan = SharedPolicy::plan(id, step, probe);
  const bool adds_line = logs_all_ && step.training && id.role == TensorRole::kWeight &&
                         plan.reason.empty() && learns(static_cast<size_t>(id.layer));
  if (adds_line) {
    plan.reason = "beta moved";
    plan.evidence = numbers(id.layer);
  }
  return plan;
}

void LdpPolicy::explain(TensorId id, TensorPlan& plan) const {
  const bool is_gradient = id.role == TensorRole::kGradBprop || id.role == TensorRole::kGradWtgrad;
  if (is_gradient) {
    plan.reason = "gradient bits are constant";
    plan.evidence = {{"format", to_string(plan.format)}};
    return;
  }
  plan.reason = fmt::format("beta {:.4f} stands for {} bits", beta(id.layer), plan.format.word_length);
  plan.evidence = numbers(id.layer);
}

std::optional<TensorPlan> LdpPolicy::redecide(TensorId id, const StepInfo&, const nlohmann::json& evidence) {
  const double beta = evidence.value("beta", beta0_);  // lines of dY have none and need none
  TensorPlan plan;
  plan.format = quantizer().format(id, {.forward = ldp::bits_of(beta, range_), .gradient = gradient_bits_});
  return plan;
}

nlohmann::json LdpPolicy::numbers(int layer) const {
  const Learnt& learnt = learnt_.at(static_cast<size_t>(layer));
  return {{"beta", learnt.beta},       {"dL_dbeta", learnt.task}, {"penalty", learnt.added},
          {"lr_beta", learning_rate_}, {"cost", last_cost_},      {"T", limit_}};
}

std::optional<KeptResidual> LdpPolicy::step_gradients(int layer) const {
  return learns(static_cast<size_t>(layer)) ? std::optional(residual_) : std::nullopt;
}

// G_T = N [ sum over X's and W's scales of dL/ds ds/dbits ].
void LdpPolicy::observe_step_gradients(TensorId id, const StepInfo&, const StepGradients& gradients) {
  Learnt& learnt = learnt_.at(static_cast<size_t>(id.layer));
  if (learnt.is_complete) learnt.task = 0.0;
  learnt.is_complete = false;
  for (size_t i = 0; i < gradients.by_step.size(); ++i) {
    const auto step = static_cast<double>(gradients.params[i].scale);
    learnt.task += range_.width() * gradients.by_step[i] * ldp::step_by_bits(step, gradients.word_length);
  }
}

double LdpPolicy::share(size_t layer) const {
  int64_t all = 0;
  for (const LayerInfo& info : layers_) all += info.macs;
  return all > 0 ? static_cast<double>(layers_[layer].macs) / static_cast<double>(all) : 0.0;
}

double LdpPolicy::cost() const {
  double cost = 0.0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const int bits = wanted_bits(static_cast<int>(i)).forward;
    cost += share(i) * (learns(i) ? ldp::relative_cost(bits, range_.max, gradient_bits_, scope_) : 1.0);
  }
  return cost;
}

// After backward: G_T is known, the penalty is made of it, both move beta.
void LdpPolicy::end_step(const StepInfo&, const StepReport&) {
  std::vector<size_t> learning;
  for (size_t i = 0; i < learnt_.size(); ++i) {
    learnt_[i].added = 0.0;
    if (!learnt_[i].is_complete) learning.push_back(i);
  }
  last_cost_ = cost();
  if (last_cost_ >= limit_) {
    const std::vector<double> added = penalties(learning);
    for (size_t i = 0; i < learning.size(); ++i) learnt_[learning[i]].added = added[i];
  }
  for (const size_t i : learning) {
    Learnt& learnt = learnt_[i];
    require(std::isfinite(learnt.task), "ldp", "{}: the gradient of beta is not finite", layers_[i].name);
    learnt.beta -= learning_rate_ * (learnt.task + learnt.added);
    if (clamps_every_step_) learnt.beta = std::clamp(learnt.beta, 0.0, 1.0);
    learnt.is_complete = true;
  }
}

std::vector<double> LdpPolicy::penalties(const std::vector<size_t>& learning) {
  std::vector<double> cost_gradients;
  double mean = 0.0;
  for (const size_t i : learning) {
    const int bits = wanted_bits(static_cast<int>(i)).forward;
    cost_gradients.push_back(ldp::cost_gradient(share(i), bits, range_, cost_gradient_));
    mean += std::fabs(learnt_[i].task) / static_cast<double>(learning.size());
  }
  if (mean_is_ema_) {
    mean = running_mean_ ? kMeanMomentum * *running_mean_ + (1.0 - kMeanMomentum) * mean : mean;
    running_mean_ = mean;
  }
  return ldp::penalty(cost_gradients, mean, alpha_);
}

RunControl LdpPolicy::end_epoch(const EpochReport&) {
  if (!clamps_every_step_) {
    for (Learnt& learnt : learnt_) learnt.beta = ldp::epoch_reset(learnt.beta);
  }
  return {};
}

nlohmann::json LdpPolicy::state() const {
  nlohmann::json layers = nlohmann::json::array();
  for (const Learnt& learnt : learnt_) layers.push_back({learnt.beta, learnt.task, learnt.added});
  return {{"shared", SharedPolicy::state()},
          {"layers", std::move(layers)},
          {"running_mean", running_mean_ ? nlohmann::json(*running_mean_) : nlohmann::json()},
          {"cost", last_cost_}};
}

void LdpPolicy::load_state(const nlohmann::json& state) {
  const nlohmann::json& layers = state.at("layers");
  require(layers.size() == learnt_.size(), "ldp", "the saved state has {} layers, the network {}",
          layers.size(), learnt_.size());
  SharedPolicy::load_state(state.at("shared"));
  for (size_t i = 0; i < learnt_.size(); ++i) {
    learnt_[i] = {.beta = layers[i].at(0).get<double>(),
                  .task = layers[i].at(1).get<double>(),
                  .added = layers[i].at(2).get<double>()};
  }
  const nlohmann::json& mean = state.at("running_mean");
  running_mean_ = mean.is_null() ? std::nullopt : std::optional(mean.get<double>());
  state.at("cost").get_to(last_cost_);
}

}  // namespace bitdial::policies
