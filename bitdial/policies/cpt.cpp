#include "bitdial/policies/cpt.h"

#include <charconv>

#include "bitdial/core/error.h"
#include "bitdial/core/precision_schedule.h"

namespace bitdial::policies {
namespace {

struct ParsedBounds {
  CptPolicy::Bounds forward, gradient;
};

// "8", or "3-8".
std::optional<CptPolicy::Bounds> parse_bounds(std::string_view text) {
  CptPolicy::Bounds bounds;
  const char* const end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, bounds.minimum);
  if (error != std::errc{}) return std::nullopt;
  bounds.maximum = bounds.minimum;
  if (rest != end) {
    if (*rest != '-') return std::nullopt;
    const auto second = std::from_chars(rest + 1, end, bounds.maximum);
    if (second.ec != std::errc{} || second.ptr != end) return std::nullopt;
  }
  const bool is_valid = bounds.minimum >= 2 && bounds.minimum <= bounds.maximum && bounds.maximum <= 32;
  return is_valid ? std::optional(bounds) : std::nullopt;
}

ParsedBounds read_bounds(const std::string& text) {
  const size_t slash = text.find('/');
  const auto forward = parse_bounds(std::string_view(text).substr(0, slash));
  const auto gradient =
      slash == std::string::npos ? std::nullopt : parse_bounds(std::string_view(text).substr(slash + 1));
  require(forward && gradient, "policies",
          "option \"bounds\" of \"cpt\" must be MIN-MAX/GRADIENT within 2 .. 32 (\"3-8/8\"), got \"{}\"",
          text);
  return {*forward, *gradient};
}

}  // namespace

CptPolicy::CptPolicy(OptionReader& options)
    : SharedPolicy(options),
      N_(options.integer("cycles", 32, 1, 1000000000, "N: ramps from Bmin to Bmax in a run")) {
  const ParsedBounds bounds =
      read_bounds(options.text("bounds", "3-8/8", "MIN-MAX/GRADIENT, 2 .. 32",
                               "Bmin, Bmax of W and X, and the bits of dY; 3-8/6-8: dY cycles too"));
  forward_ = bounds.forward;
  gradient_ = bounds.gradient;
  T_ = options.number_or_word("iterations", std::nullopt, "run", 1.0, 1e12,
                              "T: iterations that the ramps are spread over; run: those of the run");
  final_bits_ = options.number_or_word("final_eval_bits", std::nullopt, "max", 2.0, 32.0,
                                       "the second evaluation's bits of W and X; max: Bmax");
  require(!final_bits_ || *final_bits_ == static_cast<int>(*final_bits_), "policies",
          "option \"final_eval_bits\" of \"cpt\" must be a whole number or max");
  require(!T_ || *T_ >= static_cast<double>(N_), "policies",
          "option \"iterations\" of \"cpt\" must be at least cycles = {}, got {}", N_, *T_);
  keep_options(options);
  now_ = {.forward = forward_.minimum, .gradient = gradient_.minimum};
}

void CptPolicy::begin_step(const StepInfo& step) {
  t_ = step.step;
  iterations_ = T_ ? static_cast<int64_t>(*T_) : step.total_steps;
  require(iterations_ >= N_, "cpt",
          "{} cycles do not fit into a run of {} steps: set precision.options.cycles or train longer", N_,
          iterations_);
  now_.forward = cyclic_bits(t_, iterations_, N_, forward_.minimum, forward_.maximum);
  now_.gradient = cyclic_bits(t_, iterations_, N_, gradient_.minimum, gradient_.maximum);
}

void CptPolicy::explain(TensorId, TensorPlan& plan) const {
  const int64_t P = iterations_ / N_;
  plan.reason = fmt::format("cycle {} of {}, iteration {} of {}", t_ / P + 1, N_, t_ % P, P);
  plan.evidence = {{"t", t_},
                   {"T", iterations_},
                   {"N", N_},
                   {"P", P},
                   {"tau", static_cast<double>(t_ % P) / static_cast<double>(P)}};
}

std::optional<TensorPlan> CptPolicy::redecide(TensorId id, const StepInfo& step,
                                              const nlohmann::json& evidence) {
  StepInfo then = step;
  then.total_steps = evidence.value("T", step.total_steps);  // the run may have become longer since
  begin_step(then);
  return TensorPlan{.format = evaluation_format(id), .params = {}, .reason = {}, .evidence = {}};
}

Format CptPolicy::final_evaluation_format(TensorId id) const {
  const int forward = final_bits_ ? static_cast<int>(*final_bits_) : forward_.maximum;
  return quantizer().format(id, {.forward = forward, .gradient = gradient_.maximum});
}

nlohmann::json CptPolicy::state() const {
  return {{"shared", SharedPolicy::state()},
          {"t", t_},
          {"T", iterations_},
          {"forward", now_.forward},
          {"gradient", now_.gradient}};
}

void CptPolicy::load_state(const nlohmann::json& state) {
  SharedPolicy::load_state(state.at("shared"));
  state.at("t").get_to(t_);
  state.at("T").get_to(iterations_);
  state.at("forward").get_to(now_.forward);
  state.at("gradient").get_to(now_.gradient);
}

nlohmann::json cpt_argument(std::string_view text) { return {{"bounds", std::string(text)}}; }

}  // namespace bitdial::policies
