#include "bitdial/policies/muppet.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <sstream>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"

namespace bitdial::policies {
namespace {

constexpr int kFloat32 = 32;

// "20 38 50 62"; "none": empty.
std::vector<int> read_schedule(const std::string& text) {
  std::vector<int> epochs;
  if (text == "none") return epochs;
  std::istringstream stream(text);
  for (int epoch = 0; stream >> epoch;) epochs.push_back(epoch);
  const bool is_growing = std::ranges::is_sorted(epochs, std::less_equal<>());
  require(
      stream.eof() && !epochs.empty() && epochs.front() >= 0 && is_growing &&
          epochs.size() < kMuppetLadder.size(),
      "policies",
      "option \"static_schedule\" of \"muppet\" must be at most {} growing epochs (\"20 38 50 62\") or none, "
      "got \"{}\"",
      kMuppetLadder.size() - 1, text);
  return epochs;
}

}  // namespace

MuppetPolicy::MuppetPolicy(OptionReader& options)
    : window_(options.choice<DiversityWindow>(
          "gd_window", "disjoint",
          {{"disjoint", DiversityWindow::kDisjoint}, {"sliding", DiversityWindow::kSliding}},
          "epochs of one GD: r of its own, or r + 1, one shared with the next (our reading of the paper)")),
      layers_only_(options.choice<bool>("gd_mean", "parameters", {{"parameters", false}, {"layers", true}},
                                        "GD is the mean over all parameters, or over layers' weights")),
      rounding_(options.choice<Rounding>(
          "rounding", "stochastic",
          {{"stochastic", Rounding::kStochastic}, {"nearest", Rounding::kNearestEven}},
          "nearest is the mode that the paper's code calls Simple")),
      r_(options.integer("r", 3, 1, 1000, "resolution: epochs of one evaluation of GD")),
      gamma_(options.integer("gamma", 2, 1, 1000, "patience: violations that raise the level")),
      T_{.alpha = options.number("alpha", 1.0, 0.0, 100.0, "T(e) = alpha + beta exp(-lambda e)"),
         .beta = options.number("beta", 1.5, 0.0, 100.0, "see alpha"),
         .lambda = options.number("lambda", 0.1, 0.0, 100.0, "see alpha")},
      fp32_epochs_per_lr_(
          options.integer("fp32_epochs_per_lr", 15, 1, 100000, "float32 epochs at one learning rate")),
      lr_factor_(options.number("lr_factor", 0.1, 0.0, 1.0, "of the learning rate after them")),
      min_lr_(options.number("min_lr", 1e-3, 0.0, 10.0,
                             "the run ends after a block at this rate (AlexNet 1e-4, GoogLeNet 1e-5)")),
      released_stop_(options.choice<bool>("stop", "tolerance", {{"tolerance", false}, {"released", true}},
                                          "compare the rate with min_lr within 1e-9, or bit by bit")),
      static_schedule_(
          read_schedule(options.text("static_schedule", "none", "none | growing epochs: \"20 38 50 62\"",
                                     "epochs (from 0) after which the level changes, in place of GD"))),
      epoch_iterations_(options.integer("epoch_iterations", 0, 0, 1000000000,
                                        "steps of one epoch of the policy; 0: the run's own epochs")),
      quantise_operands_choice_(options.choice<std::optional<bool>>(
          "quantise_operands", "auto", {{"auto", std::nullopt}, {"on", true}, {"off", false}},
          "quantise X and dY at the GEMM, too; auto: in integer arithmetic")),
      quantise_results_(options.flag("quantise_results", true,
                                     "quantise Y and dX as published; without, blocks run fused")),
      options_(options.resolved()) {
  set_arithmetic(false);
}

void MuppetPolicy::set_arithmetic(bool is_integer) {
  quantise_operands_ = quantise_operands_choice_.value_or(is_integer);
}

void MuppetPolicy::attach(std::span<const LayerInfo> layers) {
  Policy::attach(layers);
  weight_params_.assign(layers.size(), {});
  announcements_.assign(layers.size(), Announcement{"starts at 8 bits", {}});
}

void MuppetPolicy::attach_parameters(std::span<const ParameterInfo> parameters) {
  parameters_.assign(parameters.begin(), parameters.end());
  diversity_.clear();
  for (const ParameterInfo& parameter : parameters_) {
    diversity_.emplace_back(window_, r_, parameter.elements());
  }
}

int MuppetPolicy::word_length() const { return kMuppetLadder[level_]; }
bool MuppetPolicy::is_fixed() const { return word_length() != kFloat32; }

Format MuppetPolicy::format(Granularity granularity) const {
  if (!is_fixed()) return Format::float32();
  return {.rule = ScaleRule::kBlockFloat,
          .word_length = word_length(),
          .granularity = granularity,
          .rounding = rounding_};
}

// Which tensor is quantised where: muppet.md, "Quantisers".
Format MuppetPolicy::evaluation_format(TensorId id) const {
  const bool is_image = layers_.at(static_cast<size_t>(id.layer)).is_first;
  switch (id.role) {
    case TensorRole::kInput:
    case TensorRole::kInputWtgrad:
      if (is_image) return format(Granularity::kSample);
      [[fallthrough]];
    case TensorRole::kGradBprop:
    case TensorRole::kGradWtgrad:
      return quantise_operands_ ? format() : Format::float32();
    case TensorRole::kWeight:
    case TensorRole::kOutput:
    case TensorRole::kGradInput:
      return format();
  }
  fail("muppet", "unknown tensor role {}", static_cast<int>(id.role));
}

TensorPlan MuppetPolicy::plan(TensorId id, const StepInfo& step, TensorProbe& probe) {
  TensorPlan plan;
  plan.format = evaluation_format(id);
  if (id.role != TensorRole::kWeight) return plan;
  // The weight lies on its grid already: the same step gives the same codes.
  plan.params = evaluation_params(id, probe);
  auto& announcement = announcements_.at(static_cast<size_t>(id.layer));
  if (step.training && announcement) {
    plan.reason = announcement->reason;
    plan.evidence = announcement->evidence;
    announcement.reset();
  }
  return plan;
}

// The scale is recomputed at every call from the present tensor, in evaluation too.
std::optional<QuantParams> MuppetPolicy::evaluation_params(TensorId id, TensorProbe& probe) const {
  const Format format = evaluation_format(id);
  if (format.is_float() || format.granularity != Granularity::kTensor) return std::nullopt;
  const auto& known = weight_params_.at(static_cast<size_t>(id.layer));
  if (id.role == TensorRole::kWeight && known) return known;
  return choose_params(format, probe.range());
}

ResultQuantization MuppetPolicy::results() const {
  if (!quantise_results_ || !is_fixed()) return {};
  return {.outputs = true, .pool_outputs = true, .grad_inputs = true};
}

TensorPlan MuppetPolicy::working(int parameter, TensorProbe& master) {
  const ParameterInfo& info = parameters_.at(static_cast<size_t>(parameter));
  TensorPlan plan;
  plan.format = format();
  if (is_fixed()) plan.params = choose_params(plan.format, master.range());
  if (info.is_weight) weight_params_.at(static_cast<size_t>(info.layer)) = plan.params;
  return plan;
}

TensorPlan MuppetPolicy::gradient(int, TensorProbe&) {
  TensorPlan plan;
  plan.format = format();
  return plan;
}

// g = quantise(grad, b); g += wd * Wq. What the optimiser sees then is what GD is made from.
void MuppetPolicy::update(const ParameterUpdate& update) {
  if (!is_fixed()) return;
  const auto decay = static_cast<float>(update.weight_decay);
  for (size_t i = 0; i < update.gradient.size(); ++i) update.gradient[i] += decay * update.working[i];
  if (static_schedule_.empty() && ends_epoch(update.step)) {
    const PhaseScope phase(Phase::kPolicy);
    diversity_.at(static_cast<size_t>(update.parameter)).add(update.gradient);
  }
}

int64_t MuppetPolicy::epoch_steps(const StepInfo& step) const {
  return epoch_iterations_ > 0 ? epoch_iterations_ : std::max<int64_t>(step.steps_per_epoch, 1);
}

bool MuppetPolicy::ends_epoch(const StepInfo& step) const { return (step.step + 1) % epoch_steps(step) == 0; }

void MuppetPolicy::end_step(const StepInfo& step, const StepReport& report) {
  follows_schedule_ = follows_schedule_ && report.learning_rate >= learning_rate_.value_or(0.0);
  if (follows_schedule_) learning_rate_ = report.learning_rate;
  if (!ends_epoch(step)) return;
  if (is_fixed()) {
    end_fixed_epoch((step.step + 1) / epoch_steps(step) - 1);
  } else {
    end_float_epoch();
  }
}

void MuppetPolicy::end_fixed_epoch(int64_t epoch) {
  if (!static_schedule_.empty()) {
    if (std::ranges::find(static_schedule_, epoch) == static_schedule_.end()) return;
    raise_level("static schedule", {{"epoch", epoch}});
    return;
  }
  const bool is_full = std::ranges::any_of(diversity_, [](const auto& one) { return one.is_full(); });
  if (is_full) evaluate(epoch);
}

void MuppetPolicy::evaluate(int64_t epoch) {
  const double gd = mean_diversity();
  for (GradientDiversity& one : diversity_) one.restart();
  const int before = violations_.violations;
  const auto [is_over, violations, evidence] = judge(epoch, gd);
  const std::string text =
      fmt::format("GD {:.4g}, max / GD {:.4g} {} T {:.4g}, {} of {} violations", gd,
                  evidence.at("max_GD").get<double>() / gd,
                  violations > before ? ">" : "<=", evidence.at("T").get<double>(), violations, gamma_);
  if (is_over) {
    for (GradientDiversity& one : diversity_) one.clear();
    raise_level(text, evidence);
  } else if (!announcements_.empty()) {
    announcements_.front() = {text, evidence};
  }
}

// Max GD over GD against T(e): gamma violations end the level.
MuppetPolicy::Judgement MuppetPolicy::judge(int64_t epoch, double gd) {
  const double threshold = T_(epoch);
  const double max_gd = std::max(violations_.max_gd, gd);
  Judgement judgement;
  judgement.is_over = violations_.add(gd, threshold, gamma_);
  judgement.violations = judgement.is_over ? gamma_ : violations_.violations;
  judgement.evidence = {{"epoch", epoch},       {"GD", gd},
                        {"max_GD", max_gd},     {"T", threshold},
                        {"ratio", max_gd / gd}, {"violations", judgement.violations}};
  return judgement;
}

double MuppetPolicy::mean_diversity() const {
  double sum = 0.0;
  int count = 0;
  for (size_t p = 0; p < diversity_.size(); ++p) {
    if (!diversity_[p].is_full() || (layers_only_ && !parameters_[p].is_weight)) continue;
    sum += diversity_[p].value();
    ++count;
  }
  return count > 0 ? sum / count : 0.0;
}

void MuppetPolicy::raise_level(const std::string& why, nlohmann::json evidence) {
  const int before = word_length();
  level_ = std::min(level_ + 1, kMuppetLadder.size() - 1);
  const std::string to = is_fixed() ? fmt::format("{} bits", word_length()) : "float32";
  const Announcement announcement{fmt::format("{} bits to {}: {}", before, to, why), std::move(evidence)};
  announcements_.assign(layers_.size(), announcement);
}

void MuppetPolicy::end_float_epoch() {
  switch (float_phase_.end_epoch(*learning_rate_, min_lr_, fp32_epochs_per_lr_, released_stop_)) {
    case FloatPhase::Next::kGoOn:
      return;
    case FloatPhase::Next::kLowerRate:
      *learning_rate_ *= lr_factor_;
      follows_schedule_ = false;
      return;
    case FloatPhase::Next::kStop:
      stop_ = true;
  }
}

// Constant in fixed point: of the recipe's schedule only the warm-up counts, up to its largest rate.
RunControl MuppetPolicy::control(const StepInfo&) {
  return {.learning_rate = follows_schedule_ ? std::nullopt : learning_rate_, .stop = stop_};
}

std::vector<std::pair<std::string, std::span<float>>> MuppetPolicy::buffers() {
  std::vector<std::pair<std::string, std::span<float>>> all;
  for (size_t p = 0; p < diversity_.size(); ++p) {
    all.emplace_back("gradients." + parameters_[p].name, diversity_[p].values());
  }
  return all;
}

nlohmann::json MuppetPolicy::state() const {
  nlohmann::json windows = nlohmann::json::array();
  for (const GradientDiversity& one : diversity_) windows.push_back(one.squared_norms());
  nlohmann::json announcements = nlohmann::json::array();
  for (const auto& one : announcements_) {
    announcements.push_back(one ? nlohmann::json{one->reason, one->evidence} : nlohmann::json());
  }
  return {{"level", level_},
          {"max_gd", violations_.max_gd},
          {"violations", violations_.violations},
          {"float_epochs", float_phase_.epochs},
          {"learning_rate", learning_rate_ ? nlohmann::json(*learning_rate_) : nlohmann::json()},
          {"follows_schedule", follows_schedule_},
          {"stop", stop_},
          {"squared_norms", std::move(windows)},
          {"announcements", std::move(announcements)}};
}

void MuppetPolicy::load_state(const nlohmann::json& state) {
  const auto level = state.at("level").get<size_t>();
  const nlohmann::json& windows = state.at("squared_norms");
  const nlohmann::json& announcements = state.at("announcements");
  require(level < kMuppetLadder.size() && announcements.size() == announcements_.size(), "muppet",
          "the saved state has {} layers, the network {}", announcements.size(), announcements_.size());
  require(windows.size() == diversity_.size(), "muppet", "the saved state has {} parameters, the network {}",
          windows.size(), diversity_.size());
  level_ = level;
  state.at("max_gd").get_to(violations_.max_gd);
  state.at("violations").get_to(violations_.violations);
  state.at("float_epochs").get_to(float_phase_.epochs);
  learning_rate_.reset();
  if (!state.at("learning_rate").is_null()) learning_rate_ = state.at("learning_rate").get<double>();
  follows_schedule_ = state.value("follows_schedule", false);
  state.at("stop").get_to(stop_);
  for (size_t p = 0; p < diversity_.size(); ++p) {
    diversity_[p].restore(windows[p].get<std::vector<double>>());
  }
  for (size_t i = 0; i < announcements_.size(); ++i) {
    announcements_[i].reset();
    const nlohmann::json& saved = announcements[i];
    if (!saved.is_null()) announcements_[i] = Announcement{saved.at(0).get<std::string>(), saved.at(1)};
  }
}

}  // namespace bitdial::policies
