#include "bitdial/policies/adapt.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/policies/squared_norm.h"

namespace bitdial::policies {
namespace {

// Streams of random bits apart from those of operands and parameters.
constexpr uint32_t kWeightStream = 64, kGradientStream = 65;

}  // namespace

AdaptPolicy::AdaptPolicy(std::string name, OptionReader& options) : name_(std::move(name)) {
  // Both presets of "adapt" share all values: the released ones, which v4's figures agree with.
  if (name_ == "adapt") {
    options.choice<int>("preset", "adapt_sdm", {{"adapt_sdm", 0}, {"adapt_v4", 1}},
                        "the released code (SDM 2023), or arXiv v4, for which its values are assumed");
  }
  read_formats(options);
  read_search(options);
  read_gradients(options, name_ == "marvin");
  options_ = options.resolved();
}

void AdaptPolicy::read_formats(OptionReader& options) {
  start_.WL = options.integer("wl0", 8, 2, 32, "first word length (ImageNet AlexNet: 4)");
  start_.FL = options.integer("fl0", 4, 0, 31, "first fractional length (ImageNet AlexNet: 2)");
  push_up_.wl_max = options.integer(
      "wl_max", 32, 8, 32, "largest word length; 16 puts FPROP on integer kernels (buff 2 or 4 then)");
  push_up_.buff =
      options.integer("buff", 8, 0, 16, "WL >= FL + buff; the paper's AlexNets have 4 on CIFAR10");
  push_down_.fl_min = options.integer("fl_min", 4, 2, 16, "smallest fractional length of PushDown");
  require(start_.WL <= push_up_.wl_max && push_up_.wl_max - push_up_.buff >= push_down_.fl_min, "policies",
          "options of \"{}\": wl0 <= wl_max and fl_min + buff <= wl_max, got wl0 {}, wl_max {}, fl_min {}, "
          "buff {}",
          name_, start_.WL, push_up_.wl_max, push_down_.fl_min, push_up_.buff);
  lookback_.lb_lwr = options.integer("lb_lwr", 25, 1, 1000000, "smallest lookback, updates");
  lookback_.lb_upr = options.integer("lb_upr", 100, 1, 1000000, "largest lookback, updates");
  lookback_.gamma = options.number("gamma", 0.33, 0.0, 1.0, "weight of the newest lookback; 1: no smoothing");
  const bool constant = options.flag("constant_lookback", false,
                                     "allow lb_lwr > lb_upr, which makes lb_upr the constant target");
  require(constant || lookback_.lb_lwr <= lookback_.lb_upr, "policies",
          "options of \"{}\": lb_lwr {} > lb_upr {} needs constant_lookback", name_, lookback_.lb_lwr,
          lookback_.lb_upr);
  r_lwr_ = options.integer("r_lwr", 50, 2, 100000, "smallest resolution, histogram bins");
  r_upr_ = options.integer("r_upr", 150, 2, 100000, "largest resolution");
  require(r_lwr_ <= r_upr_, "policies", "options of \"{}\": r_lwr {} > r_upr {}", name_, r_lwr_, r_upr_);
}

void AdaptPolicy::read_search(OptionReader& options) {
  push_down_.released = options.choice<bool>(
      "search", "clean", {{"clean", false}, {"released", true}},
      "PushDown: KL and the smallest lengths that pass, or the released code's surrogate and bisection");
  push_down_.first_slice = options.choice<bool>("search_scope", "whole", {{"whole", false}, {"first", true}},
                                                "histograms of the whole tensor, or of its first slice W[0]");
  push_down_.stochastic = options.choice<bool>("search_rounding", "SR", {{"SR", true}, {"nearest", false}},
                                               "rounding inside the search");
  push_down_.kl_tol = options.number("kl_tol", 5e-2, 0.0, 10.0, "KL that the clean search lets pass, nat");
  push_up_.form = options.choice<PushUpForm>(
      "pushup", "code",
      {{"code", PushUpForm::kCode},
       {"arxiv", PushUpForm::kArxiv},
       {"kl_gradients", PushUpForm::kKlGradients}},
      "the released rule, the arXiv text's, or the older one (keeps lb_upr gradients of every tensor)");
  first_strategy_ = options.choice<AdaptStrategy>(
      "strategy", "min",
      {{"min", AdaptStrategy::kMin}, {"mean", AdaptStrategy::kMean}, {"max", AdaptStrategy::kMax}},
      "where PushUp's strategy starts");
  released_mean_ = options.choice<bool>("loss_mean", "mean", {{"mean", false}, {"released", true}},
                                        "mean of the loss history, or sum / m of m + 1 losses");
  seed_ = static_cast<uint64_t>(
      options.integer("search_seed", 0, 0, 1000000000, "of the search's stochastic rounding"));
}

void AdaptPolicy::read_gradients(OptionReader& options, bool is_marvin) {
  quant_in_ = options.flag("quant_in", true, "quantise layers' inputs");
  quant_out_ = options.flag("quant_out", true,
                            "quantise outputs of layers, average pools and norms; without, blocks run fused");
  quant_grads_ = options.flag("quant_grads", true, "quantise the parameters' gradients");
  inplace_inputs_ = options.flag("inplace_inputs", false,
                                 "as released: a quantised input replaces the tensor for other readers, too");
  l1_ = options.number("l1", is_marvin ? 0.0 : 1e-4, 0.0, 1.0,
                       "a1: L1 penalty on all parameters (their quantised values)");
  has_penalty_ =
      options.flag("penalty", !is_marvin, "add the penalty P of word lengths to the strategy's loss");
  gradient_norm_ = options.choice<GradientNorm>(
      "grad_norm", "l2_unit",
      {{"l2_unit", GradientNorm::kUnit}, {"clip1", GradientNorm::kClip}, {"none", GradientNorm::kNone}},
      "gradients get L2 norm 1, at most 1 (older form), or keep theirs");
}

void AdaptPolicy::attach(std::span<const LayerInfo> layers) {
  Policy::attach(layers);
  layer_formats_.assign(layers.size(), start_);
  announcements_.assign(layers.size(),
                        Announcement{fmt::format("starts at <{},{}>", start_.WL, start_.FL), {}});
}

void AdaptPolicy::attach_parameters(std::span<const ParameterInfo> parameters) {
  parameters_.assign(parameters.begin(), parameters.end());
  const size_t count = parameters_.size();
  tensors_.assign(count, Tensor{.format = start_, .r = r_lwr_, .lb = lookback_.lb_lwr});
  loss_ = {.strategy = first_strategy_, .history = {}};
  zeros_.assign(count, 0.0);
  abs_sums_.assign(count, 0.0);
  G_.assign(count, {});
  gathered_.assign(count, {});
  const bool keeps_all = push_up_.form == PushUpForm::kKlGradients;
  const auto longest = static_cast<size_t>(std::max(lookback_.lb_lwr, lookback_.lb_upr));
  for (size_t p = 0; p < count; ++p) {
    if (!has_formats_of_its_own(p)) continue;
    const auto elements = static_cast<size_t>(parameters_[p].elements());
    G_[p].assign(elements, 0.0F);
    if (keeps_all) gathered_[p].assign(longest * elements, 0.0F);
  }
}

Format AdaptPolicy::format(FixedPoint fixed) const {
  return {.rule = ScaleRule::kFixed,
          .word_length = fixed.WL,
          .fraction_length = fixed.FL,
          .rounding = Rounding::kStochastic};
}

Format AdaptPolicy::evaluation_format(TensorId id) const {
  const Format own = format(layer_formats_.at(static_cast<size_t>(id.layer)));
  switch (id.role) {
    case TensorRole::kWeight:
      return own;
    case TensorRole::kInput:
    case TensorRole::kInputWtgrad:
      return quant_in_ ? own : Format::float32();
    case TensorRole::kOutput:
      return quant_out_ ? own : Format::float32();
    case TensorRole::kGradBprop:
    case TensorRole::kGradWtgrad:
    case TensorRole::kGradInput:
      return Format::float32();
  }
  fail("adapt", "unknown tensor role {}", static_cast<int>(id.role));
}

TensorPlan AdaptPolicy::plan(TensorId id, const StepInfo& step, TensorProbe&) {
  TensorPlan plan;
  plan.format = evaluation_format(id);
  auto& announcement = announcements_.at(static_cast<size_t>(id.layer));
  if (step.training && id.role == TensorRole::kWeight && announcement) {
    plan.reason = announcement->reason;
    plan.evidence = announcement->evidence;
    announcement.reset();
  }
  return plan;
}

ResultQuantization AdaptPolicy::results() const {
  return {.outputs = quant_out_,
          .norm_outputs = quant_out_,
          .pool_inputs = quant_in_ && quant_out_,
          .pool_outputs = quant_out_,
          .inputs_in_place = quant_in_ && inplace_inputs_};
}

TensorPlan AdaptPolicy::working(int parameter, TensorProbe&) {
  TensorPlan plan;
  plan.format = format(tensors_.at(static_cast<size_t>(parameter)).format);
  return plan;
}

void AdaptPolicy::observe_working(int parameter, std::span<const float> working) {
  int64_t zeros = 0;
  double sum = 0.0;
  for (const float w : working) {
    zeros += w == 0.0F ? 1 : 0;
    sum += static_cast<double>(std::fabs(w));
  }
  const auto p = static_cast<size_t>(parameter);
  zeros_.at(p) = working.empty() ? 0.0 : static_cast<double>(zeros) / static_cast<double>(working.size());
  abs_sums_.at(p) = sum;
}

double AdaptPolicy::penalty() const {
  if (tensors_.empty()) return 0.0;
  double sum = 0.0;
  for (size_t p = 0; p < tensors_.size(); ++p) sum += tensors_[p].format.WL / 32.0 * (1.0 - zeros_[p]);
  return sum / static_cast<double>(tensors_.size());
}

// ADAPT_STRATEGY, once per update, before the parameters.
void AdaptPolicy::begin_update(const StepInfo&, double loss, int64_t micro_batches) {
  const double l1 = l1_ * std::accumulate(abs_sums_.begin(), abs_sums_.end(), 0.0);
  const double regularised =
      (loss + l1 + (has_penalty_ ? penalty() : 0.0)) / static_cast<double>(micro_batches);
  const auto add = [](int sum, const Tensor& tensor) { return sum + tensor.lb; };
  const int lookbacks = std::accumulate(tensors_.begin(), tensors_.end(), 0, add);
  adapt_strategy(loss_, regularised, lookbacks / std::max(static_cast<int>(tensors_.size()), 1),
                 released_mean_);
}

void AdaptPolicy::prepare(const ParameterUpdate& update) {
  if (l1_ == 0.0) return;
  const auto l1 = static_cast<float>(l1_);
  for (size_t i = 0; i < update.gradient.size(); ++i) {
    const float w = update.working[i];
    update.gradient[i] += w > 0.0F ? l1 : w < 0.0F ? -l1 : 0.0F;
  }
}

TensorPlan AdaptPolicy::gradient(int parameter, TensorProbe&) {
  TensorPlan plan;
  if (quant_grads_) plan.format = format(tensors_.at(static_cast<size_t>(parameter)).format);
  return plan;
}

void AdaptPolicy::update(const ParameterUpdate& update) {
  normalize(update.gradient);
  const auto p = static_cast<size_t>(update.parameter);
  if (has_formats_of_its_own(p)) {
    gather(update);
  } else if (p > 0) {
    // Biases and norms follow the tensor before them.
    tensors_[p].format = tensors_[p - 1].format;
    tensors_[p].r = tensors_[p - 1].r;
    tensors_[p].lb = tensors_[p - 1].lb;
  }
}

// After quantising, the whole tensor by its own norm.
void AdaptPolicy::normalize(std::span<float> gradient) const {
  if (gradient_norm_ == GradientNorm::kNone) return;
  const double norm = std::sqrt(squared_norm(gradient));
  if (norm == 0.0 || (gradient_norm_ == GradientNorm::kClip && norm <= 1.0)) return;
  const auto divisor = static_cast<float>(norm);
  for (float& g : gradient) g /= divisor;
}

void AdaptPolicy::gather(const ParameterUpdate& update) {
  const auto p = static_cast<size_t>(update.parameter);
  Tensor& tensor = tensors_[p];
  std::vector<float>& G = G_[p];
  for (size_t i = 0; i < G.size(); ++i) G[i] += update.gradient[i];
  if (!gathered_[p].empty()) {
    std::ranges::copy(update.gradient, gathered_[p].begin() + static_cast<std::ptrdiff_t>(
                                                                  static_cast<size_t>(tensor.n) * G.size()));
  }
  ++tensor.n;
  const double D = adapt_diversity(tensor.n, std::sqrt(squared_norm(G)));
  tensor.lb = adapt_lookback(D, tensor.lb, lookback_);
  tensor.r = adapt_resolution(tensor.lb, tensor.r, lookback_, r_lwr_, r_upr_);
  if (tensor.n >= tensor.lb) switch_format(update, D);
}

std::span<const float> AdaptPolicy::searched(size_t parameter, std::span<const float> values) const {
  if (!push_down_.first_slice || values.empty()) return values;
  return values.first(values.size() / static_cast<size_t>(parameters_[parameter].shape.front()));
}

// PushDown, then PushUp; the accumulators start anew.
void AdaptPolicy::switch_format(const ParameterUpdate& update, double D) {
  const auto p = static_cast<size_t>(update.parameter);
  Tensor& tensor = tensors_[p];
  const FixedPoint before = tensor.format;
  const RandomCounters counters{.seed = seed_,
                                .step = static_cast<uint64_t>(update.step.step),
                                .layer = static_cast<uint32_t>(p),
                                .tensor = kWeightStream};
  const PushDownResult down = push_down(searched(p, update.master), before, tensor.r, push_down_, counters);
  PushUpResult up;
  std::vector<FixedPoint> wanted;
  if (push_up_.form == PushUpForm::kKlGradients) {
    wanted = gradient_formats(p, down.format, update.step);
    up.format = agree(wanted, loss_.strategy, push_up_);
  } else {
    up = push_up(D, down.format, loss_.strategy, push_up_);
  }
  tensor.format = up.format;
  const int layer = parameters_[p].layer;
  if (layer >= 0 && parameters_[p].is_weight) {
    layer_formats_.at(static_cast<size_t>(layer)) = up.format;
    const char* strategy = kStrategyNames[static_cast<size_t>(loss_.strategy)];
    announcements_.at(static_cast<size_t>(layer)) = {
        fmt::format("<{},{}> down to <{},{}>, up by {} to <{},{}> ({}, D {:.4g})", before.WL, before.FL,
                    down.format.WL, down.format.FL, up.format.FL - down.format.FL, up.format.WL, up.format.FL,
                    strategy, D),
        {{"D", D},
         {"n", tensor.n},
         {"lookback", tensor.lb},
         {"resolution", tensor.r},
         {"strategy", strategy},
         {"loss_FL", down.kl_FL},
         {"loss_WL", down.kl_WL},
         {"histograms", down.evaluations},
         {"before", {before.WL, before.FL}},
         {"push_down", {down.format.WL, down.format.FL}},
         {"s1", up.s1},
         {"s2", up.s2},
         {"s", up.s},
         {"zeros", zeros_[p]},
         {"penalty", penalty()}}};
    for (const FixedPoint& one : wanted)
      announcements_.at(static_cast<size_t>(layer))->evidence["gradient_formats"].push_back({one.WL, one.FL});
  }
  tensor.n = 0;
  std::ranges::fill(G_[p], 0.0F);
}

std::vector<FixedPoint> AdaptPolicy::gradient_formats(size_t parameter, FixedPoint reduced,
                                                      const StepInfo& step) const {
  const size_t elements = G_[parameter].size();
  std::vector<FixedPoint> formats;
  for (size_t k = 0; k < static_cast<size_t>(tensors_[parameter].n); ++k) {
    const RandomCounters counters{.seed = seed_,
                                  .step = static_cast<uint64_t>(step.step),
                                  .micro_batch = static_cast<uint32_t>(k),
                                  .layer = static_cast<uint32_t>(parameter),
                                  .tensor = kGradientStream};
    const std::span<const float> one = std::span(gathered_[parameter]).subspan(k * elements, elements);
    formats.push_back(raise_for_gradient(one, reduced, tensors_[parameter].r, push_down_, counters));
  }
  return formats;
}

std::vector<std::pair<std::string, std::span<float>>> AdaptPolicy::buffers() {
  std::vector<std::pair<std::string, std::span<float>>> all;
  for (size_t p = 0; p < parameters_.size(); ++p) {
    if (!G_[p].empty()) all.emplace_back("gradient_sum." + parameters_[p].name, G_[p]);
    if (!gathered_[p].empty()) all.emplace_back("gradients." + parameters_[p].name, gathered_[p]);
  }
  return all;
}

nlohmann::json AdaptPolicy::state() const {
  nlohmann::json tensors = nlohmann::json::array();
  for (size_t p = 0; p < tensors_.size(); ++p) {
    const Tensor& tensor = tensors_[p];
    tensors.push_back({{"name", parameters_[p].name},
                       {"WL", tensor.format.WL},
                       {"FL", tensor.format.FL},
                       {"r", tensor.r},
                       {"lb", tensor.lb},
                       {"n", tensor.n}});
  }
  nlohmann::json layers = nlohmann::json::array();
  for (size_t i = 0; i < layer_formats_.size(); ++i) {
    nlohmann::json layer = {{"WL", layer_formats_[i].WL}, {"FL", layer_formats_[i].FL}};
    if (const auto& one = announcements_[i]) layer["announcement"] = {one->reason, one->evidence};
    layers.push_back(std::move(layer));
  }
  return {{"tensors", std::move(tensors)},
          {"layers", std::move(layers)},
          {"strategy", kStrategyNames[static_cast<size_t>(loss_.strategy)]},
          {"losses", loss_.history}};
}

void AdaptPolicy::load_state(const nlohmann::json& state) {
  const nlohmann::json& tensors = state.at("tensors");
  const nlohmann::json& layers = state.at("layers");
  require(tensors.size() == tensors_.size() && layers.size() == layer_formats_.size(), "adapt",
          "the saved state has {} parameters in {} layers, the network {} in {}", tensors.size(),
          layers.size(), tensors_.size(), layer_formats_.size());
  for (size_t p = 0; p < tensors_.size(); ++p) {
    const auto name = tensors[p].at("name").get<std::string>();
    require(name == parameters_[p].name, "adapt", "parameter {} of the saved state is \"{}\", here \"{}\"", p,
            name, parameters_[p].name);
    Tensor& tensor = tensors_[p];
    tensors[p].at("WL").get_to(tensor.format.WL);
    tensors[p].at("FL").get_to(tensor.format.FL);
    tensors[p].at("r").get_to(tensor.r);
    tensors[p].at("lb").get_to(tensor.lb);
    tensors[p].at("n").get_to(tensor.n);
  }
  for (size_t i = 0; i < layer_formats_.size(); ++i) {
    layers[i].at("WL").get_to(layer_formats_[i].WL);
    layers[i].at("FL").get_to(layer_formats_[i].FL);
    announcements_[i].reset();
    if (const auto saved = layers[i].find("announcement"); saved != layers[i].end()) {
      announcements_[i] = Announcement{saved->at(0).get<std::string>(), saved->at(1)};
    }
  }
  const auto strategy = state.at("strategy").get<std::string>();
  const auto found = std::ranges::find(kStrategyNames, strategy);
  require(found != kStrategyNames.end(), "adapt", "the saved state has the unknown strategy \"{}\"",
          strategy);
  loss_.strategy = static_cast<AdaptStrategy>(found - kStrategyNames.begin());
  state.at("losses").get_to(loss_.history);
}

}  // namespace bitdial::policies
