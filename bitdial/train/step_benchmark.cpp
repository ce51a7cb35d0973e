#include "bitdial/train/step_benchmark.h"

#include <torch/torch.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "bitdial/core/error.h"
#include "bitdial/kernels/reference_loop.h"
#include "bitdial/models/network.h"
#include "bitdial/nn/session.h"
#include "bitdial/policies/registry.h"
#include "bitdial/train/clock.h"
#include "bitdial/train/optimizer.h"
#include "bitdial/train/setup.h"
#include "bitdial/train/timings.h"
#include "bitdial/train/working_weights.h"

namespace bitdial::train {
namespace {

constexpr const char* kFloat32Row = "pytorch-float32";
constexpr const char* kBFloat16Row = "pytorch-bf16";
constexpr int kRoundsPerMeasuring = 4;
constexpr double kPatience = 1.0;  // seconds that a step waits for uncontended cores
constexpr double kTrail = 5e-3;    // for so long after it the system may take back the pages that it freed
constexpr int kProfiledSteps = 20;
constexpr int kProfiledUpdates = 60;  // of policies that gather gradients: two of AdaPT's windows
constexpr int kProfiledMeasurements = 5;

/// One network with its data and optimiser state.
class Contestant {
 public:
  Contestant(std::string name, const StepBenchmarkOptions& options, at::MemoryFormat format)
      : name_(std::move(name)), steps_per_epoch_(options.steps_per_epoch), format_(format) {
    const bool is_policy = name_ != kFloat32Row && name_ != kBFloat16Row;
    auto policy = policies::make(is_policy ? name_ : (name_ == kBFloat16Row ? "bf16" : "float32"));
    torch::manual_seed(1);
    network_ = models::make(
        options.model,
        {.classes = options.classes, .normalization = policy->normalization(), .gate = policy->gate()});
    for (auto& parameter : network_->parameters()) {
      if (parameter.dim() == 4) parameter.set_data(parameter.data().contiguous(format));
    }
    const auto size = network_->input_size();
    images_ = torch::randn({options.batch, size.channels, size.height, size.width}).contiguous(format);
    labels_ = torch::randint(options.classes, {options.batch}, torch::kLong);
    nn::SessionOptions session_options;
    session_options.arithmetic = options.simulated ? nn::Arithmetic::kSimulated : nn::Arithmetic::kInteger;
    session_ = std::make_unique<nn::Session>(policy, session_options);
    session_->attach(*network_);
    provide_timings(*session_, *network_, options.batch, {}, options.trusts_timings);
    optimizer_ = std::make_unique<Optimizer>(OptimizerRecipe{}, *network_);
    if (ParameterRule* rule = session_->policy().parameter_rule()) {
      working_.emplace(*rule, session_->layers(), *network_, optimizer_.get(), 1);
      working_->start(0);
    } else {
      session_->set_weight_updater(optimizer_.get());
    }
    // Past the first epoch: every policy is in its steady state, and measures again a whole epoch later.
    step_ = steps_per_epoch_;
  }

  const std::string& name() const { return name_; }
  at::MemoryFormat format() const { return format_; }
  bool quantizes() const { return session_->policy().quantizes(); }
  bool has_parameter_rule() const { return working_.has_value(); }

  StepProfile profile(int steps, bool measuring) {
    Profile profile;
    for (int i = 0; i < steps; ++i) {
      profile.start();
      run(measuring);
      profile.stop();
    }
    return summarise(profile, session_->layers(), steps, steps * images_.size(0));
  }

  /// zero_grad, forward, loss, backward, SGD with momentum. A measuring step is the first of a new epoch.
  double run(bool measuring) {
    if (measuring) step_ = (step_ / steps_per_epoch_ + 1) * steps_per_epoch_;
    const StepInfo info{.step = step_,
                        .epoch = step_ / steps_per_epoch_,
                        .steps_per_epoch = steps_per_epoch_,
                        .total_steps = 1000 * steps_per_epoch_};
    const auto start = Clock::now();
    optimizer_->zero_grad();
    if (!working_) optimizer_->update_in_backward(kLearningRate);
    session_->begin_step(info);
    torch::Tensor loss;
    {
      nn::ForwardScope scope(*session_);
      loss = torch::nn::functional::cross_entropy(network_->forward(images_), labels_);
    }
    loss = network_->with_gate_cost(loss, session_->policy(), info);
    loss.backward();
    const auto value = loss.item<double>();
    if (working_) {
      working_->update(info, value, 1, kLearningRate);
    } else {
      optimizer_->step(kLearningRate);
    }
    session_->end_step(info, {.loss = value, .learning_rate = kLearningRate});
    if (working_) working_->finish_update(info);
    const double elapsed = seconds_since(start);
    // A step that jumped to a new epoch must not be followed by another measuring one.
    if (++step_ % steps_per_epoch_ == 0) ++step_;
    return elapsed;
  }

 private:
  static constexpr double kLearningRate = 1e-3;

  std::string name_;
  int64_t steps_per_epoch_;
  at::MemoryFormat format_;
  std::shared_ptr<models::Network> network_;
  std::unique_ptr<nn::Session> session_;
  torch::Tensor images_, labels_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<WorkingWeights> working_;  ///< where the policy has a parameter rule
  int64_t step_ = 0;
};

/// LibTorch at its best: the memory format in which its step is faster.
std::unique_ptr<Contestant> make_contestant(const std::string& name, const StepBenchmarkOptions& options) {
  auto best = std::make_unique<Contestant>(name, options, at::MemoryFormat::ChannelsLast);
  if (best->quantizes()) return best;
  auto other = std::make_unique<Contestant>(name, options, at::MemoryFormat::Contiguous);
  const auto fastest = [](Contestant& contestant) {
    contestant.run(false);
    double seconds = contestant.run(false);
    for (int i = 0; i < 2; ++i) seconds = std::min(seconds, contestant.run(false));
    return seconds;
  };
  return fastest(*best) <= fastest(*other) ? std::move(best) : std::move(other);
}

/// One timed step and the speed of the reference loop around it.
struct Repetition {
  double seconds = 0;
  double reference = 0;
};

std::vector<double> keep_uncontended(const std::vector<Repetition>& repetitions,
                                     const kernels::ReferenceLoop& reference) {
  std::vector<double> kept;
  for (const auto& repetition : repetitions) {
    if (reference.is_uncontended(repetition.reference)) kept.push_back(repetition.seconds);
  }
  return kept;
}

struct Lane {
  std::unique_ptr<Contestant> contestant;
  std::vector<Repetition> steady, measuring;
};

Repetition time_step(Contestant& contestant, bool measuring, kernels::ReferenceLoop& reference) {
  const double before = reference.run_until_uncontended(kPatience);
  const double seconds = contestant.run(measuring);
  for (const auto end = Clock::now(); seconds_since(end) < kTrail;) reference.run();
  return {seconds, std::min(before, reference.run())};
}

StepRow summarise(const Lane& lane, const kernels::ReferenceLoop& reference,
                  const StepBenchmarkOptions& options) {
  StepRow row;
  row.name = lane.contestant->name();
  row.memory_format =
      lane.contestant->format() == at::MemoryFormat::ChannelsLast ? "channels_last" : "contiguous";
  const auto kept = keep_uncontended(lane.steady, reference);
  row.kept = static_cast<int64_t>(kept.size());
  row.rounds = std::ssize(lane.steady);
  row.uncontended = static_cast<double>(kept.size()) / static_cast<double>(lane.steady.size());
  double seconds = kernels::median(kept);
  const auto measuring = keep_uncontended(lane.measuring, reference);
  if (!measuring.empty() && !kept.empty()) {
    row.measuring_ms = 1e3 * kernels::median(measuring);
    seconds += (kernels::median(measuring) - seconds) / static_cast<double>(options.steps_per_epoch);
  }
  row.median_ms = 1e3 * seconds;
  return row;
}

double policy_share(const StepProfile& steady, const StepProfile& measuring, int64_t steps_per_epoch) {
  const double weight = 1.0 / static_cast<double>(steps_per_epoch);
  const auto mean = [&](double one, double other) { return (1.0 - weight) * one + weight * other; };
  constexpr auto kPolicy = static_cast<size_t>(Phase::kPolicy);
  return mean(steady.sum.ms[kPolicy], measuring.sum.ms[kPolicy]) /
         mean(steady.sum.total_ms(), measuring.sum.total_ms());
}

void add_profile(Contestant& contestant, const StepBenchmarkOptions& options, StepRow& row) {
  if (!contestant.quantizes()) return;
  const int steps = contestant.has_parameter_rule() ? kProfiledUpdates : kProfiledSteps;
  StepProfile steady = contestant.profile(steps, false);
  row.policy_share =
      policy_share(steady, contestant.profile(kProfiledMeasurements, true), options.steps_per_epoch);
  if (options.profiles) row.profile = std::move(steady);
}

void add_ratios(const std::vector<Lane>& lanes, std::vector<StepRow>& rows, int kept) {
  const auto add = [&](const char* rival, auto speedup, auto paired) {
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].name != rival) continue;
      for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[r].kept >= kept && rows[i].kept >= kept)
          rows[i].*speedup = rows[r].median_ms / rows[i].median_ms;
        std::vector<double> ratios;
        for (size_t round = 0; round < lanes[i].steady.size(); ++round)
          ratios.push_back(lanes[r].steady[round].seconds / lanes[i].steady[round].seconds);
        rows[i].*paired = kernels::median(ratios);
      }
    }
  };
  add(kFloat32Row, &StepRow::speedup_vs_float32, &StepRow::paired_vs_float32);
  add(kBFloat16Row, &StepRow::speedup_vs_bf16, &StepRow::paired_vs_bf16);
}

/// A field of /proc/self/status in bytes.
int64_t process_memory(const std::string& field) {
  std::ifstream status("/proc/self/status");
  std::string name;
  int64_t kilobytes = 0;
  for (std::string line; std::getline(status, line);) {
    if (std::istringstream in(line); in >> name >> kilobytes && name == field + ":") return kilobytes * 1024;
  }
  fail("bench step", "/proc/self/status has no {}", field);
}

}  // namespace

std::vector<std::string> applicable_policies(const StepBenchmarkOptions& options,
                                             std::vector<std::string>& left_out) {
  std::vector<std::string> applicable;
  for (const std::string& name : policies::names()) {
    if (name == "skeleton") continue;  // an example
    const std::string spec = name == "schedule" ? "schedule:ldp-1" : name;
    auto policy = policies::make(spec);
    if (!policy->quantizes()) continue;
    try {
      const auto network = models::make(
          options.model,
          {.classes = options.classes, .normalization = policy->normalization(), .gate = policy->gate()});
      nn::Session(std::move(policy)).attach(*network);
      applicable.push_back(spec);
    } catch (const Error& error) {
      left_out.emplace_back(error.what());
    }
  }
  return applicable;
}

std::vector<StepRow> benchmark_steps(const StepBenchmarkOptions& options,
                                     const std::function<void(double)>& progress) {
  configure_threads(options.threads);
  std::vector<Lane> lanes;
  std::vector<std::string> names = {kFloat32Row};
  if (options.has_bf16) names.emplace_back(kBFloat16Row);
  names.insert(names.end(), options.policies.begin(), options.policies.end());
  for (const auto& name : names) lanes.push_back({make_contestant(name, options), {}, {}});
  for (auto& lane : lanes) {
    lane.contestant->run(true);
    for (int i = 0; i < 2; ++i) lane.contestant->run(false);
  }

  // Of the best instruction set, also where the kernels are forced to another: it tells other work on the
  // cores, and that of AVX2 is too uneven for that.
  kernels::ReferenceLoop reference(kernels::available_isas().back());
  const auto enough = [&] {
    return std::all_of(lanes.begin(), lanes.end(), [&](const Lane& lane) {
      return std::ssize(keep_uncontended(lane.steady, reference)) >= options.kept;
    });
  };
  const auto start = Clock::now();
  for (int round = 0; !enough() && seconds_since(start) < options.time_limit_s; ++round) {
    for (auto& lane : lanes) {
      lane.steady.push_back(time_step(*lane.contestant, false, reference));
      if (lane.contestant->quantizes() && round % kRoundsPerMeasuring == 0) {
        lane.measuring.push_back(time_step(*lane.contestant, true, reference));
      }
    }
    progress(std::min(1.0, static_cast<double>(round + 1) / options.kept));
  }

  std::vector<StepRow> rows;
  for (const auto& lane : lanes) {
    rows.push_back(summarise(lane, reference, options));
    add_profile(*lane.contestant, options, rows.back());
  }
  add_ratios(lanes, rows, options.kept);
  return rows;
}

int64_t measure_peak_bytes(const StepBenchmarkOptions& options, const std::string& row) {
  configure_threads(options.threads);
  // What the libraries allocate on first use is not the row's.
  (void)torch::ones({8, 8}).mm(torch::ones({8, 8}));
  const int64_t before = process_memory("VmRSS");
  StepBenchmarkOptions trusting = options;
  trusting.trusts_timings = true;  // timing kernels here would count as the row's memory
  Contestant contestant(row, trusting, at::MemoryFormat::ChannelsLast);
  contestant.run(true);
  for (int i = 0; i < 3; ++i) contestant.run(false);
  return process_memory("VmHWM") - before;
}

nlohmann::json to_json_array(const std::vector<StepRow>& rows) {
  auto array = nlohmann::json::array();
  const auto optional = [](const std::optional<double>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
  };
  for (const auto& row : rows) {
    array.push_back({{"name", row.name},
                     {"median_ms", row.median_ms},
                     {"measuring_ms", optional(row.measuring_ms)},
                     {"speedup_vs_float32", optional(row.speedup_vs_float32)},
                     {"speedup_vs_bf16", optional(row.speedup_vs_bf16)},
                     {"paired_vs_float32", optional(row.paired_vs_float32)},
                     {"paired_vs_bf16", optional(row.paired_vs_bf16)},
                     {"rounds", row.rounds},
                     {"policy_share", optional(row.policy_share)},
                     {"peak_bytes", row.peak_bytes},
                     {"kept", row.kept},
                     {"uncontended", row.uncontended},
                     {"memory_format", row.memory_format}});
    if (row.profile) array.back()["profile"] = to_json(*row.profile);
  }
  return array;
}

}  // namespace bitdial::train
