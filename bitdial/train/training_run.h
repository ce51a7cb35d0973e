#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "bitdial/core/error.h"
#include "bitdial/core/profile.h"
#include "bitdial/cost/network_cost.h"
#include "bitdial/data/loader.h"
#include "bitdial/models/network.h"
#include "bitdial/nn/session.h"
#include "bitdial/train/batch.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/clock.h"
#include "bitdial/train/gemm_log.h"
#include "bitdial/train/optimizer.h"
#include "bitdial/train/run_directory.h"
#include "bitdial/train/schedule.h"
#include "bitdial/train/setup.h"
#include "bitdial/train/trainer.h"
#include "bitdial/train/working_weights.h"

/// The inside of train() and resume().
namespace bitdial::train {

/// What one optimiser step found on its batch.
struct StepOutcome {
  double loss = 0.0;
  int64_t correct = 0;
  int64_t images = 0;
  double learning_rate = 0.0;
  double last_loss = 0.0;  ///< of the last micro-batch
  int64_t parts = 1;       ///< micro-batches
  bool stops = false;      ///< the policy ends the run here
};

/// What the network achieves after an epoch.
struct Evaluations {
  std::optional<Evaluation> test;
  std::optional<Evaluation> final;       ///< the same in the policy's final precision, if it has one
  std::optional<Evaluation> validation;  ///< on training images that are held out, if there are any
};

/// Says in an error at which step it happened.
template <class Action>
auto at_step(const StepInfo& info, Action&& action) {
  try {
    return action();
  } catch (const Error& error) {
    const std::string text = error.what();
    if (text.starts_with("[train]")) throw;
    fail("train", "step {}: {}", info.step, text);
  }
}

/// One call of train() or resume(). Its parts: training_run.cpp has the epochs, training_step.cpp an
/// optimiser step, training_log.cpp what is said about them, training_state.cpp what is saved.
class TrainingRun {
 public:
  /// `resumes`: what policies may have decided by, times of this machine, stays as it is known.
  TrainingRun(Recipe recipe, RunDirectory run, const TrainOptions& options, bool resumes = false);

  void start_from_init();
  void restore(const Checkpoint& checkpoint);
  TrainSummary run();

 private:
  enum class Outcome : uint8_t { kDone, kStopped };

  Outcome run_epoch();
  Outcome run_steps();
  Outcome finish_epoch();
  StepOutcome run_step(data::Batch& batch);
  StepOutcome accumulate_gradients(const BatchTensors& batch, StepInfo& info);
  void check_gradients(const StepInfo& info);
  [[noreturn]] void explain_non_finite_loss(const torch::Tensor& images, const StepInfo& info);

  [[noreturn]] void explain_non_finite_evaluation(data::Loader& loader);
  std::optional<Evaluation> evaluate_on(data::Loader& loader);
  bool evaluate_all(Evaluations& evaluations);

  int64_t total_steps() const { return train::total_steps(recipe_.train, train_loader_.batches()); }
  StepInfo step_info() const;
  bool should_stop() const { return options_.stop && options_.stop(); }
  bool evaluates(int64_t epoch) const;
  void log_step(const StepOutcome& outcome);
  void add_precision(MetricsLine& line) const;
  void log_epoch(const Evaluations& evaluations, double seconds);
  ProgressState progress_state() const;
  NetworkDescription description() const;
  std::filesystem::path save();
  void write_quantized();
  void print_head();

  Recipe recipe_;
  RunDirectory run_;
  TrainOptions options_;
  TrainingImages training_;
  std::shared_ptr<const data::Dataset> train_data_;
  std::shared_ptr<const data::Dataset> test_data_;
  data::Loader train_loader_;
  data::Loader test_loader_;
  std::optional<data::Loader> validation_loader_;  ///< where training images are held out
  std::shared_ptr<Policy> policy_;
  models::Options model_options_;
  std::shared_ptr<models::Network> network_;
  std::optional<nn::Session> session_;
  std::optional<Optimizer> optimizer_;
  std::optional<WorkingWeights> working_;  ///< where the policy has a parameter rule
  Schedule schedule_;
  std::optional<double> policy_learning_rate_;
  std::optional<cost::CostMeter> meter_;
  std::optional<GemmLog> gemms_;
  ProgressBar bar_;

  Progress progress_;
  bool stop_after_epoch_ = false;  ///< the policy asked for it
  double last_train_loss_ = 0.0;
  Evaluations last_evaluations_;

  // Of this call and epoch, for rates and the time left.
  Clock::time_point call_start_ = Clock::now();
  double seconds_before_call_ = 0.0;
  Clock::time_point epoch_start_ = Clock::now();
  double step_seconds_ = 0.0;
  int64_t step_images_ = 0;
  Profile profile_;
  int64_t profiled_steps_ = 0;
  int64_t profiled_images_ = 0;
  double evaluation_seconds_ = 0.0;
};

}  // namespace bitdial::train
