#include "bitdial/policies/adapt.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "bitdial/core/error.h"
#include "bitdial/policies/vector_sums.h"

namespace bitdial::policies {

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
    case TensorRole::kOutput:  // quant_in: what norms and pools read
      return quant_in_ || quant_out_ ? own : Format::float32();
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

// Norms and average pools are quantised layers, too, in the format of the layer before them: what leaves it
// quantised is on the norm's grid already.
ResultQuantization AdaptPolicy::results() const {
  const bool in = quant_in_ && quantise_results_, out = quant_out_ && quantise_results_;
  return {.outputs = out,
          .norm_inputs = in && !out,
          .norm_outputs = out,
          .pool_inputs = in,
          .pool_outputs = out,
          .inputs_in_place = quant_in_ && inplace_inputs_};
}

TensorPlan AdaptPolicy::working(int parameter, TensorProbe&) {
  TensorPlan plan;
  plan.format = format(tensors_.at(static_cast<size_t>(parameter)).format);
  return plan;
}

void AdaptPolicy::observe_working(int parameter, std::span<const float> working) {
  const Magnitude sums = magnitude(working);
  const auto p = static_cast<size_t>(parameter);
  zeros_.at(p) =
      working.empty() ? 0.0 : static_cast<double>(sums.zeros) / static_cast<double>(working.size());
  abs_sums_.at(p) = sums.abs_sum;
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
  choice_ = adapt_strategy(loss_, regularised, lookbacks / std::max(static_cast<int>(tensors_.size()), 1),
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
  const double norm = normalize(update.gradient);
  if (has_formats_of_its_own(static_cast<size_t>(update.parameter))) gather(update, norm);
}

// The masters are those of the update until here.
void AdaptPolicy::end_step(const StepInfo& step, const StepReport&) {
  switch_formats(step);
  // Biases and norms follow the tensor before them.
  for (size_t p = 1; p < tensors_.size(); ++p) {
    if (has_formats_of_its_own(p)) continue;
    tensors_[p].format = tensors_[p - 1].format;
    tensors_[p].r = tensors_[p - 1].r;
    tensors_[p].lb = tensors_[p - 1].lb;
  }
}

// After quantising, the whole tensor by its own norm.
double AdaptPolicy::normalize(std::span<float> gradient) const {
  const double norm = std::sqrt(squared_norm(gradient));
  const bool keeps_norm =
      gradient_norm_ == GradientNorm::kNone || (gradient_norm_ == GradientNorm::kClip && norm <= 1.0);
  if (norm == 0.0 || keeps_norm) return norm;
  const auto divisor = static_cast<float>(norm);
  for (float& g : gradient) g /= divisor;
  return 1.0;
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
