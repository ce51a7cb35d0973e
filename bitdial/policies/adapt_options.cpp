// AdaPT's options, with the defaults of its published configurations (specs: adapt.md, "State and
// parameters").
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/policies/adapt.h"

namespace bitdial::policies {

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
  quant_in_ = options.flag("quant_in", true, "quantise the inputs of layers, norms and average pools");
  quant_out_ = options.flag("quant_out", true, "quantise the outputs of layers, norms and average pools");
  quantise_results_ =
      options.flag("quantise_results", true,
                   "apply quant_in and quant_out as published; without, quant_in concerns the "
                   "GEMMs' inputs alone, quant_out nothing, and blocks run fused");
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

}  // namespace bitdial::policies
