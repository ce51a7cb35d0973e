#include "bitdial/train/training_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "bitdial/kernels/isa.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/network_charge.h"

namespace bitdial::train {

namespace {

std::shared_ptr<models::Network> make_network(const Recipe& recipe, const models::Options& options) {
  torch::manual_seed(static_cast<uint64_t>(recipe.train.seed));
  return models::make(recipe.model.name, options);
}

}  // namespace

TrainingRun::TrainingRun(Recipe recipe, RunDirectory run, const TrainOptions& options, bool resumes)
    : recipe_(std::move(recipe)),
      run_(std::move(run)),
      options_(options),
      training_(open_training(recipe_)),
      train_data_(training_.train),
      test_data_(open_split(recipe_, data::Split::kTest)),
      train_loader_(train_data_, loader_options(recipe_, data::Split::kTrain)),
      test_loader_(test_data_, loader_options(recipe_, data::Split::kTest)),
      policy_(make_policy(recipe_.precision)),
      model_options_(model_options(recipe_, *train_data_, *policy_)),
      network_(make_network(recipe_, model_options_)),
      schedule_(recipe_.schedule, recipe_.optimizer.learning_rate, train_loader_.batches(), total_steps()),
      bar_(options.bar) {
  require(train_data_->classes() == test_data_->classes() && train_data_->shape() == test_data_->shape(),
          "train", "training and test split of {} differ in classes or image shape", recipe_.data.name);
  require(train_loader_.batches() > 0, "train",
          "no batches: {} training images, batches of {} and data.drop_last = true", train_data_->size(),
          recipe_.data.batch_size);
  if (training_.validation != nullptr) {
    validation_loader_.emplace(training_.validation, loader_options(recipe_, data::Split::kTest));
  }
  nn::SessionOptions session_settings = session_options(recipe_);
  session_settings.on_event = [this](const nn::PrecisionEvent& event) {
    run_.write(PrecisionLine{event.step, event.layer, event.tensor, event.bits, event.scale_log2,
                             event.fraction_length, event.arithmetic, event.reason, event.evidence});
  };
  session_.emplace(policy_, std::move(session_settings));
  session_->attach(*network_);
  meter_.emplace(charge_of(network_->layer_table(), session_->layers()), recipe_.data.batch_size);
  gemms_.emplace(meter_->network());
  const int64_t parts = std::min(recipe_.train.micro_batches, recipe_.data.batch_size);
  provide_timings(*session_, *network_, (recipe_.data.batch_size + parts - 1) / parts, options.measuring,
                  resumes);
  optimizer_.emplace(recipe_.optimizer, *network_);
  if (ParameterRule* rule = policy_->parameter_rule()) {
    working_.emplace(*rule, session_->layers(), *network_, &*optimizer_,
                     static_cast<uint64_t>(recipe_.train.seed));
  } else {
    session_->set_weight_updater(&*optimizer_);
  }
}

StepInfo TrainingRun::step_info() const {
  StepInfo info;
  info.step = progress_.step;
  info.epoch = progress_.epoch;
  info.steps_per_epoch = train_loader_.batches();
  info.total_steps = total_steps();
  return info;
}

void TrainingRun::explain_non_finite_evaluation(data::Loader& loader) {
  loader.start_epoch(0);
  auto batch = loader.next();
  explain_non_finite_loss(tensors_of(*batch, test_data_->shape()).images, step_info());
}

bool TrainingRun::evaluates(int64_t epoch) const {
  return (epoch + 1) % recipe_.train.evaluate_every == 0 || epoch + 1 == recipe_.train.epochs ||
         progress_.step >= total_steps() || stop_after_epoch_;
}

TrainingRun::Outcome TrainingRun::run_steps() {
  train_loader_.start_epoch(progress_.epoch, progress_.batch);
  network_->train();
  step_seconds_ = 0.0;
  step_images_ = 0;
  for (auto start = Clock::now(); progress_.step < total_steps(); start = Clock::now()) {
    auto batch = train_loader_.next();
    if (!batch) break;
    if (options_.profiles) profile_.start();
    const StepOutcome outcome = run_step(*batch);
    profile_.stop();
    profiled_steps_ += 1;
    profiled_images_ += outcome.images;
    progress_.batch += 1;
    progress_.step += 1;
    progress_.loss_sum += outcome.loss * static_cast<double>(outcome.images);
    progress_.correct += outcome.correct;
    progress_.images += outcome.images;
    progress_.learning_rate = outcome.learning_rate;
    step_images_ += outcome.images;
    step_seconds_ += seconds_since(start);  // waiting for data included
    log_step(outcome);
    train_loader_.recycle(std::move(*batch));
    if (outcome.stops) {
      stop_after_epoch_ = true;
      break;
    }
    if (should_stop()) return Outcome::kStopped;
    const int64_t every = recipe_.train.checkpoint_steps;
    if (every > 0 && progress_.step % every == 0) save();
  }
  return Outcome::kDone;
}

std::optional<Evaluation> TrainingRun::evaluate_on(data::Loader& loader) {
  auto result = at_step(step_info(), [&] { return evaluate(*network_, &*session_, loader, options_.stop); });
  if (result && !std::isfinite(result->loss)) explain_non_finite_evaluation(loader);
  return result;
}

/// False when it was stopped on the way.
bool TrainingRun::evaluate_all(Evaluations& evaluations) {
  evaluations.test = evaluate_on(test_loader_);
  if (!evaluations.test) return false;
  evaluations.final = at_step(step_info(), [&] {
    return evaluate_final(*network_, *session_, test_loader_, *evaluations.test, options_.stop);
  });
  if (!evaluations.final && policy_->has_final_precision()) return false;
  if (validation_loader_) evaluations.validation = evaluate_on(*validation_loader_);
  return !validation_loader_ || evaluations.validation;
}

TrainingRun::Outcome TrainingRun::finish_epoch() {
  Evaluations now;
  if (evaluates(progress_.epoch)) {
    const auto start = Clock::now();
    if (!evaluate_all(now)) return Outcome::kStopped;
    evaluation_seconds_ = seconds_since(start);
    last_evaluations_ = now;
  }
  last_train_loss_ = progress_.loss_sum / static_cast<double>(progress_.images);
  log_epoch(now, seconds_since(epoch_start_));

  EpochReport report;
  report.epoch = progress_.epoch;
  report.train_loss = last_train_loss_;
  if (const auto& watched = validation_loader_ ? now.validation : now.test) {
    report.validation_loss = watched->loss;
    report.validation_accuracy = watched->accuracy;
  }
  schedule_.end_epoch(report);
  const RunControl control = policy_->end_epoch(report);
  if (control.learning_rate) policy_learning_rate_ = control.learning_rate;
  stop_after_epoch_ = stop_after_epoch_ || control.stop;

  const bool is_best = now.test && now.test->accuracy > progress_.best_accuracy;
  if (is_best) {
    progress_.best_accuracy = now.test->accuracy;
    progress_.best_epoch = progress_.epoch;
  }
  progress_.epoch += 1;
  progress_.batch = progress_.images = progress_.correct = 0;
  progress_.loss_sum = 0.0;
  progress_.finished =
      progress_.epoch >= recipe_.train.epochs || progress_.step >= total_steps() || stop_after_epoch_;
  if (is_best || progress_.finished || progress_.epoch % recipe_.train.checkpoint_every == 0) {
    const std::filesystem::path path = save();
    if (is_best) mark_best(path);
  }
  return Outcome::kDone;
}

TrainingRun::Outcome TrainingRun::run_epoch() {
  epoch_start_ = Clock::now();
  if (run_steps() == Outcome::kStopped) return Outcome::kStopped;
  return finish_epoch();
}

void TrainingRun::print_head() {
  std::string arithmetic = "float arithmetic";
  if (policy_->quantizes()) {
    arithmetic = recipe_.precision.arithmetic + " arithmetic";
    if (recipe_.precision.arithmetic == "integer") {
      arithmetic += fmt::format(" ({})", kernels::to_string(kernels::active_isa()));
    }
  }
  const std::string held_out =
      validation_loader_ ? fmt::format(", {} validation", training_.validation->size()) : "";
  bar_.print(fmt::format("{} on {}: {} training{} and {} test images, policy {}, {}, {} threads",
                         recipe_.model.name, recipe_.data.name, train_data_->size(), held_out,
                         test_data_->size(), describe_policy(recipe_.precision), arithmetic,
                         at::get_num_threads()));
  bar_.print(fmt::format("run directory {}", run_.path().string()));
}

TrainSummary TrainingRun::run() {
  print_head();
  Outcome outcome = Outcome::kDone;
  while (!progress_.finished && outcome == Outcome::kDone) {
    outcome = run_epoch();
    // A stop between two epochs finds everything saved, unless checkpoints are rarer.
    if (outcome == Outcome::kDone && !progress_.finished && should_stop()) outcome = Outcome::kStopped;
  }
  if (outcome == Outcome::kStopped) save();
  if (progress_.finished && working_) write_quantized();
  bar_.clear();
  TrainSummary summary;
  summary.directory = run_.path();
  summary.finished = progress_.finished;
  summary.epochs = progress_.epoch;
  summary.steps = progress_.step;
  summary.train_loss = last_train_loss_;
  summary.evaluation = last_evaluations_.test;
  summary.final_evaluation = last_evaluations_.final;
  summary.validation = last_evaluations_.validation;
  summary.best_accuracy = progress_.best_accuracy;
  summary.seconds = seconds_before_call_ + seconds_since(call_start_);
  summary.precision = session_->summary();
  summary.cost = meter_->totals();
  if (working_) summary.zero_fraction = working_->zero_fraction();
  if (working_ && progress_.finished) summary.quantized_network = run_.quantized_file();
  if (options_.profiles && profiled_steps_ > 0) {
    summary.profile = train::summarise(profile_, session_->layers(), profiled_steps_, profiled_images_);
  }
  return summary;
}

}  // namespace bitdial::train
