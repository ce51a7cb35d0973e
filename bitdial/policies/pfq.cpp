#include "bitdial/policies/pfq.h"

#include <charconv>

#include "bitdial/core/error.h"

namespace bitdial::policies {

PfqPolicy::PfqPolicy(OptionReader& options)
    : SharedPolicy(options),
      F_(options.integers("F", {3, 4, 6, 8}, 0, 32,
                          "bits of W and X per stage; 0: not quantised, above 16 carried in float32")),
      G_(options.integers("G", {6, 6, 8, 8}, 0, 32, "bits of dY per stage")),
      eval_every_(options.number_or_word(
          "eval_every", 400.0, "epoch", 1.0, 1e9,
          "iterations whose mean loss is one \"epoch\" of the indicator; epoch: the run's own (ImageNet)")),
      weight_bits_(options.number_or_word(
          "weight_bits", std::nullopt, "stage", 0.0, 32.0,
          "stage: W as X; FracTrain's MobileNetV2 keeps its own number (released: 0, not quantised)")) {
  PfqIndicator::Options indicator;
  indicator.epsilon =
      options.number("epsilon", 0.05, 0.0, 1e6, "first threshold of the relative change of losses");
  indicator.alpha = options.number("alpha", 0.3, 0.0, 1.0, "epsilon <- alpha * epsilon after a switch");
  require(F_.size() == G_.size(), "policies",
          "options \"F\" and \"G\" of \"pfq\" must have the same length, got {} and {}", F_.size(),
          G_.size());
  for (const std::vector<int>& list : {F_, G_}) {
    for (const int bits : list) {
      require(bits != 1, "policies", "options \"F\" and \"G\" of \"pfq\" must be 0 or 2 .. 32, got 1");
    }
  }
  require(!weight_bits_ || (*weight_bits_ != 1.0 && *weight_bits_ == static_cast<int>(*weight_bits_)),
          "policies", "option \"weight_bits\" of \"pfq\" must be 0, 2 .. 32 or stage");
  indicator.switches = static_cast<int>(F_.size()) - 1;
  indicator_ = PfqIndicator(indicator);
  keep_options(options);
}

SharedBits PfqPolicy::wanted_bits(int) const {
  const auto k = static_cast<size_t>(indicator_.stage());
  return {.forward = F_[k], .gradient = G_[k]};
}

Format PfqPolicy::evaluation_format(TensorId id) const { return stage_format(id, indicator_.stage()); }

Format PfqPolicy::stage_format(TensorId id, int k) const {
  const bool has_own_bits = id.role == TensorRole::kWeight && weight_bits_ && !quantizer().is_fixed(id.layer);
  if (has_own_bits) return shared_format(id.role, static_cast<int>(*weight_bits_));
  const auto stage = static_cast<size_t>(k);
  return quantizer().format(id, {.forward = F_.at(stage), .gradient = G_.at(stage)});
}

// The losses of the window must have led to stage k: all differences within epsilon.
std::optional<TensorPlan> PfqPolicy::redecide(TensorId id, const StepInfo&, const nlohmann::json& evidence) {
  int k = evidence.value("k", 0);
  TensorPlan plan;
  if (evidence.contains("window")) {
    const PfqChanges changes = pfq_changes_again(evidence);
    if (!changes.has_settled) --k;
    plan.evidence = {{"d", changes.d}};
  }
  require(k >= 0 && k < std::ssize(F_), "pfq", "the log has stage {}, the recipe {} stages", k, F_.size());
  plan.format = stage_format(id, k);
  return plan;
}

void PfqPolicy::explain(TensorId, TensorPlan& plan) const {
  const int k = indicator_.stage();
  plan.reason = k == 0 ? fmt::format("stage 0 of {}", F_.size() - 1)
                       : fmt::format("stage {} of {}: the losses of the last epochs are within {:.4g} S", k,
                                     F_.size() - 1, evidence_.at("epsilon").get<double>());
  plan.evidence =
      evidence_.is_null() ? nlohmann::json{{"k", 0}, {"epsilon", indicator_.epsilon()}} : evidence_;
}

void PfqPolicy::end_step(const StepInfo&, const StepReport& report) {
  loss_sum_ += report.loss;
  ++losses_;
  if (eval_every_ && losses_ >= static_cast<int64_t>(*eval_every_)) end_losses();
}

RunControl PfqPolicy::end_epoch(const EpochReport&) {
  if (!eval_every_ && losses_ > 0) end_losses();
  return {};
}

void PfqPolicy::end_losses() {
  const PfqIndicator::Verdict verdict = indicator_.end_epoch(loss_sum_ / static_cast<double>(losses_));
  if (verdict.switched) evidence_ = evidence_of(verdict);
  loss_sum_ = 0.0;
  losses_ = 0;
}

nlohmann::json PfqPolicy::state() const {
  return {{"shared", SharedPolicy::state()},
          {"indicator", indicator_.state()},
          {"evidence", evidence_},
          {"loss_sum", loss_sum_},
          {"losses", losses_}};
}

void PfqPolicy::load_state(const nlohmann::json& state) {
  SharedPolicy::load_state(state.at("shared"));
  indicator_.load_state(state.at("indicator"));
  require(indicator_.stage() < std::ssize(F_), "pfq", "the saved state is in stage {}, the recipe has {}",
          indicator_.stage(), F_.size());
  evidence_ = state.at("evidence");
  state.at("loss_sum").get_to(loss_sum_);
  state.at("losses").get_to(losses_);
}

nlohmann::json pfq_argument(std::string_view text) {
  nlohmann::json lists = nlohmann::json::array({nlohmann::json::array()});
  for (std::string_view rest = text; !rest.empty();) {
    int bits = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), bits);
    const auto used = static_cast<size_t>(end - rest.data());
    const bool is_last = used == rest.size();
    const bool is_valid = error == std::errc{} && (is_last || rest[used] == ',' || rest[used] == '/');
    require(is_valid, "policies", "\"pfq\" takes the lists F and G (\"pfq:3,4,6,8/6,6,8,8\"), got \"{}\"",
            text);
    lists.back().push_back(bits);
    if (!is_last && rest[used] == '/') lists.push_back(nlohmann::json::array());
    rest.remove_prefix(is_last ? used : used + 1);
  }
  require(lists.size() == 2, "policies",
          "\"pfq\" takes the lists F and G (\"pfq:3,4,6,8/6,6,8,8\"), got \"{}\"", text);
  return {{"F", lists[0]}, {"G", lists[1]}};
}

}  // namespace bitdial::policies
