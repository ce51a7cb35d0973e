#include "bitdial/train/trainer.h"

#include <cmath>

#include "bitdial/core/error.h"
#include "bitdial/cost/network_cost.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/models/network.h"
#include "bitdial/train/batch.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/clock.h"
#include "bitdial/train/finite_probe.h"
#include "bitdial/train/gemm_log.h"
#include "bitdial/train/network_charge.h"
#include "bitdial/train/optimizer.h"
#include "bitdial/train/quantized_network.h"
#include "bitdial/train/run_directory.h"
#include "bitdial/train/schedule.h"
#include "bitdial/train/setup.h"
#include "bitdial/train/weights.h"
#include "bitdial/train/working_weights.h"

namespace bitdial::train {

namespace {

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

/// "layer1.0.conv1.weight" -> "layer1.0.conv1"
std::string layer_of(const std::string& parameter) { return parameter.substr(0, parameter.rfind('.')); }

/// Of a tensor with one scale, which is a power of two.
std::optional<int> fraction_length_of(const std::vector<QuantParams>& params) {
  int exponent = 0;
  if (params.size() != 1 || std::frexp(params.front().scale, &exponent) != 0.5F) return std::nullopt;
  return 1 - exponent;
}

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

class Trainer {
 public:
  /// `resumes`: what policies may have decided by, times of this machine, stays as it is known.
  Trainer(Recipe recipe, RunDirectory run, const TrainOptions& options, bool resumes = false);

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

std::shared_ptr<models::Network> make_network(const Recipe& recipe, const models::Options& options) {
  torch::manual_seed(static_cast<uint64_t>(recipe.train.seed));
  return models::make(recipe.model.name, options);
}

Trainer::Trainer(Recipe recipe, RunDirectory run, const TrainOptions& options, bool resumes)
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

void Trainer::start_from_init() {
  if (!recipe_.model.init.empty()) {
    import_weights(*network_, read_weights(recipe_.model.init), recipe_.model.init);
  }
  if (working_) working_->start(0);
}

void Trainer::restore(const Checkpoint& checkpoint) {
  const std::string source = run_.checkpoints().string();
  import_weights(*network_, checkpoint.tensors_under("model."), source);
  optimizer_->load_state(from_stored(checkpoint.tensors_under("optimizer.")));
  const TensorFile random_state = checkpoint.tensors_under("rng.");
  require(random_state.tensors.size() == 1, "checkpoint", "{} lacks the state of the random generator",
          source);
  at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
  generator.set_state(from_stored(random_state.tensors.front()));
  session_->load_state(checkpoint.session);
  schedule_.load_state(checkpoint.schedule);
  policy_learning_rate_ = checkpoint.policy_learning_rate;
  if (!checkpoint.cost.is_null()) {
    meter_->load_state(checkpoint.cost.at("operations"));
    gemms_->load_state(checkpoint.cost.at("gemms"));
  }
  progress_ = checkpoint.progress;
  // A run that was made longer since is not finished.
  if (recipe_.train.epochs > parse_recipe(checkpoint.recipe, source).train.epochs) progress_.finished = false;
  seconds_before_call_ = progress_.seconds;
  if (working_) {
    working_->load_state(from_stored(checkpoint.tensors_under("policy.")));
    working_->start(progress_.step);
  }
  run_.rewind(checkpoint.logs);
}

StepInfo Trainer::step_info() const {
  StepInfo info;
  info.step = progress_.step;
  info.epoch = progress_.epoch;
  info.steps_per_epoch = train_loader_.batches();
  info.total_steps = total_steps();
  return info;
}

void Trainer::explain_non_finite_loss(const torch::Tensor& images, const StepInfo& info) {
  // The session goes: the layers now report to the probe.
  const std::string layer = first_non_finite_operand(*network_, session_, images, info);
  fail("train", "step {}: the loss is not finite; first operand that is not finite: {}", info.step, layer);
}

void Trainer::explain_non_finite_evaluation(data::Loader& loader) {
  loader.start_epoch(0);
  auto batch = loader.next();
  explain_non_finite_loss(tensors_of(*batch, test_data_->shape()).images, step_info());
}

StepOutcome Trainer::accumulate_gradients(const BatchTensors& batch, StepInfo& info) {
  StepOutcome outcome;
  outcome.images = batch.images.size(0);
  const int64_t parts = std::min(recipe_.train.micro_batches, outcome.images);
  outcome.parts = parts;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t begin = outcome.images * part / parts;
    const int64_t count = outcome.images * (part + 1) / parts - begin;
    const torch::Tensor images = batch.images.narrow(0, begin, count);
    const torch::Tensor labels = batch.labels.narrow(0, begin, count);
    info.micro_batch = static_cast<int>(part);
    session_->begin_step(info);
    torch::Tensor loss;
    torch::Tensor logits;
    {
      const nn::ForwardScope scope(*session_);
      logits = network_->forward(images).to(torch::kFloat32);
      loss = torch::nn::functional::cross_entropy(
          logits, labels,
          torch::nn::functional::CrossEntropyFuncOptions().label_smoothing(recipe_.train.label_smoothing));
      for (const torch::Tensor& auxiliary : network_->take_auxiliary_logits()) {
        loss = loss + models::kAuxiliaryLossWeight *
                          torch::nn::functional::cross_entropy(auxiliary.to(torch::kFloat32), labels);
      }
    }
    const auto value = loss.item<double>();
    if (!std::isfinite(value)) explain_non_finite_loss(images, info);
    const double share = static_cast<double>(count) / static_cast<double>(outcome.images);
    const torch::Tensor part_of_loss = parts == 1 ? loss : loss * share;
    const torch::Tensor total = network_->with_gate_cost(part_of_loss, *policy_, info);
    total.backward();
    outcome.loss += network_->has_gate() ? total.item<double>() : value * share;
    outcome.last_loss = value;
    torch::NoGradGuard no_grad;
    outcome.correct += logits.argmax(1).eq(labels).sum().item<int64_t>();
  }
  return outcome;
}

void Trainer::check_gradients(const StepInfo& info) {
  const double norm = optimizer_->gradient_norm();
  if (!std::isfinite(norm)) {
    const std::string parameter = optimizer_->first_non_finite_gradient();
    require(parameter.empty(), "train", "step {}: layer {}: the gradient of {} is not finite", info.step,
            layer_of(parameter), parameter);
    require(recipe_.train.clip_norm <= 0.0, "train",
            "step {}: the gradient's norm exceeds the range of numbers and cannot be clipped", info.step);
  }
  const double limit = recipe_.train.clip_norm;
  if (limit > 0.0 && norm > limit) optimizer_->scale_gradients(limit / norm);
}

StepOutcome Trainer::run_step(data::Batch& batch) {
  StepInfo info = step_info();
  return at_step(info, [&] {
    optimizer_->zero_grad();
    const double learning_rate = policy_learning_rate_.value_or(schedule_.learning_rate(info.step));
    // Clipping and accumulation want all gradients first.
    const bool is_direct = !working_ && recipe_.train.clip_norm <= 0.0 && recipe_.train.micro_batches == 1;
    const int64_t decay_epochs = recipe_.optimizer.decay_epochs;
    if (decay_epochs > 0 && info.epoch >= decay_epochs) optimizer_->end_weight_decay();
    if (is_direct) optimizer_->update_in_backward(learning_rate);
    StepOutcome outcome = accumulate_gradients(tensors_of(batch, train_data_->shape()), info);
    check_gradients(info);
    outcome.learning_rate = learning_rate;
    if (working_) {
      working_->update(info, outcome.last_loss, outcome.parts, learning_rate);
    } else {
      optimizer_->step(learning_rate);
    }
    session_->end_step(info, {outcome.loss, outcome.learning_rate});
    meter_->add(session_->layer_bits());
    for (const GemmLine& line : gemms_->add(info.step, session_->gemm_arithmetic())) run_.write(line);
    if (working_) working_->finish_update(info);
    const RunControl control = policy_->control(info);
    if (control.learning_rate) policy_learning_rate_ = control.learning_rate;
    outcome.stops = control.stop;
    return outcome;
  });
}

bool Trainer::evaluates(int64_t epoch) const {
  return (epoch + 1) % recipe_.train.evaluate_every == 0 || epoch + 1 == recipe_.train.epochs ||
         progress_.step >= total_steps() || stop_after_epoch_;
}

ProgressState Trainer::progress_state() const {
  const nn::PrecisionSummary precision = session_->summary();
  ProgressState state;
  state.epoch = progress_.epoch;
  state.epochs = recipe_.train.epochs;
  state.batch = progress_.batch;
  state.batches = train_loader_.batches();
  if (progress_.images > 0) {
    state.loss = progress_.loss_sum / static_cast<double>(progress_.images);
    state.accuracy = static_cast<double>(progress_.correct) / static_cast<double>(progress_.images);
  }
  if (step_seconds_ > 0.0) state.images_per_s = static_cast<double>(step_images_) / step_seconds_;
  state.bits_w = precision.bits_w;
  state.bits_a = precision.bits_a;
  state.bits_dy = precision.bits_dy;
  const GemmLog::Shares macs = gemms_->now();
  state.int8_macs = macs.int8;
  state.int16_macs = macs.int16;
  state.float_macs = macs.floating;
  if (step_images_ > 0) {
    const auto steps_left = static_cast<double>(total_steps() - progress_.step);
    const double per_step =
        step_seconds_ * static_cast<double>(recipe_.data.batch_size) / static_cast<double>(step_images_);
    state.seconds_left =
        steps_left * per_step + evaluation_seconds_ * static_cast<double>(state.epochs - state.epoch);
  }
  return state;
}

void Trainer::add_precision(MetricsLine& line) const {
  const nn::PrecisionSummary precision = session_->summary();
  line.bits_w = precision.bits_w;
  line.bits_a = precision.bits_a;
  line.bits_dy = precision.bits_dy;
  const cost::MeanBits weighted = cost::mac_weighted_mean(meter_->network(), session_->layer_bits());
  line.bits_w_by_macs = weighted.w;
  line.bits_a_by_macs = weighted.x;
  line.bits_dy_by_macs = weighted.dy;
  const cost::CostTotals cost = meter_->totals();
  line.gbitops = cost.gbitops;
  line.ratio_fw8bw8 = cost.ratio_fw8bw8;
  line.ratio_float32 = cost.ratio_float32;
  line.gbitops_actual = cost.gbitops_actual;
  line.ratio_float32_actual = cost.ratio_float32_actual;
  line.size_ratio = cost.size_ratio;
  line.memory_ratio = cost.memory_ratio;
  line.macs_percent = gemms_->percent();
}

void Trainer::log_step(const StepOutcome& outcome) {
  const ProgressState state = progress_state();
  bar_.update(state);
  const int64_t step = progress_.step - 1;
  if (step % recipe_.train.log_every != 0) return;
  MetricsLine line;
  line.kind = MetricsLine::Kind::kStep;
  line.epoch = progress_.epoch;
  line.step = step;
  line.loss = outcome.loss;
  line.accuracy = static_cast<double>(outcome.correct) / static_cast<double>(outcome.images);
  line.lr = outcome.learning_rate;
  line.images_per_s = state.images_per_s;
  add_precision(line);
  run_.write(line);
}

void Trainer::log_epoch(const Evaluations& evaluations, double seconds) {
  EpochSummary summary;
  summary.state = progress_state();
  summary.seconds = seconds;
  if (auto& left = summary.state.seconds_left) *left -= evaluation_seconds_;  // this epoch's is over
  if (progress_.step >= total_steps()) summary.state.seconds_left.reset();
  MetricsLine line;
  line.kind = MetricsLine::Kind::kEpoch;
  line.epoch = progress_.epoch;
  line.step = progress_.step - 1;
  line.loss = line.accuracy = std::nan("");
  if (const auto& test = evaluations.test) {
    summary.test_loss = line.loss = test->loss;
    summary.test_accuracy = line.accuracy = test->accuracy;
  }
  if (const auto& final = evaluations.final) {
    line.final_loss = final->loss;
    summary.final_accuracy = line.final_accuracy = final->accuracy;
  }
  if (const auto& validation = evaluations.validation) {
    line.validation_loss = validation->loss;
    summary.validation_accuracy = line.validation_accuracy = validation->accuracy;
  }
  line.lr = progress_.learning_rate;
  line.images_per_s = summary.state.images_per_s;
  add_precision(line);
  run_.write(line);
  bar_.end_epoch(summary);
}

std::filesystem::path Trainer::save() {
  Checkpoint checkpoint;
  checkpoint.recipe = to_toml(recipe_);
  checkpoint.model = recipe_.model.name;
  checkpoint.classes = model_options_.classes;
  checkpoint.in_channels = *model_options_.in_channels;
  checkpoint.image_size = *model_options_.image_size;
  progress_.seconds = seconds_before_call_ + seconds_since(call_start_);
  checkpoint.progress = progress_;
  checkpoint.schedule = schedule_.state();
  checkpoint.session = session_->state();
  checkpoint.policy_learning_rate = policy_learning_rate_;
  checkpoint.steps_per_epoch = train_loader_.batches();
  checkpoint.cost = {{"operations", meter_->state()}, {"gemms", gemms_->state()}};
  checkpoint.logs = run_.sync();
  std::optional<WorkingWeights::MasterScope> masters;
  if (working_) masters.emplace(*working_);
  for (StoredTensor& tensor : export_weights(*network_).tensors) {
    tensor.name.insert(0, "model.");
    checkpoint.tensors.push_back(std::move(tensor));
  }
  masters.reset();
  if (working_) {
    for (const auto& [name, tensor] : working_->state()) {
      checkpoint.tensors.push_back(to_stored("policy." + name, tensor));
    }
  }
  for (const auto& [name, tensor] : optimizer_->state()) {
    checkpoint.tensors.push_back(to_stored("optimizer." + name, tensor));
  }
  checkpoint.tensors.push_back(
      to_stored("rng.cpu", at::globalContext().defaultGenerator(at::kCPU).get_state()));
  const std::filesystem::path path = checkpoint_file(run_.checkpoints(), progress_.step);
  write_checkpoint(path, checkpoint);
  prune_checkpoints(run_.checkpoints(), recipe_.train.keep_checkpoints);
  return path;
}

void Trainer::write_quantized() {
  QuantizedNetwork network;
  network.recipe = to_toml(recipe_);
  network.model = recipe_.model.name;
  network.classes = model_options_.classes;
  network.in_channels = *model_options_.in_channels;
  network.image_size = *model_options_.image_size;
  network.epochs = progress_.epoch;
  network.steps = progress_.step;
  network.session = session_->state();
  network.zeros = working_->zero_fraction();
  for (const WorkingTensor& one : working_->tensors()) {
    network.formats.push_back({one.name, one.format.word_length, fraction_length_of(one.params), one.zeros});
  }
  network.weights = export_weights(*network_);
  write_quantized_network(run_.quantized_file(), network);
}

Trainer::Outcome Trainer::run_steps() {
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

std::optional<Evaluation> Trainer::evaluate_on(data::Loader& loader) {
  auto result = at_step(step_info(), [&] { return evaluate(*network_, &*session_, loader, options_.stop); });
  if (result && !std::isfinite(result->loss)) explain_non_finite_evaluation(loader);
  return result;
}

/// False when it was stopped on the way.
bool Trainer::evaluate_all(Evaluations& evaluations) {
  evaluations.test = evaluate_on(test_loader_);
  if (!evaluations.test) return false;
  evaluations.final = at_step(step_info(), [&] {
    return evaluate_final(*network_, *session_, test_loader_, *evaluations.test, options_.stop);
  });
  if (!evaluations.final && policy_->has_final_precision()) return false;
  if (validation_loader_) evaluations.validation = evaluate_on(*validation_loader_);
  return !validation_loader_ || evaluations.validation;
}

Trainer::Outcome Trainer::finish_epoch() {
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

Trainer::Outcome Trainer::run_epoch() {
  epoch_start_ = Clock::now();
  if (run_steps() == Outcome::kStopped) return Outcome::kStopped;
  return finish_epoch();
}

void Trainer::print_head() {
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

TrainSummary Trainer::run() {
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

}  // namespace

TrainSummary train(const Recipe& recipe, const std::filesystem::path& directory,
                   const TrainOptions& options) {
  check_recipe(recipe);
  configure_threads(recipe.train.threads);
  const bool is_new = !std::filesystem::exists(directory);
  std::optional<Trainer> trainer;
  try {
    trainer.emplace(recipe, RunDirectory::create(directory, recipe), options);
    trainer->start_from_init();
  } catch (...) {
    // No data, wrong weights, interrupted: nothing is left that was not there before.
    trainer.reset();
    std::error_code ignored;
    if (is_new) std::filesystem::remove_all(directory, ignored);
    throw;
  }
  return trainer->run();
}

TrainSummary resume(const std::filesystem::path& directory, const TrainOptions& options,
                    std::optional<int64_t> epochs) {
  RunDirectory run = RunDirectory::open(directory);
  Recipe recipe = load_recipe(run.recipe_file());
  configure_threads(recipe.train.threads);
  const Checkpoint checkpoint = read_checkpoint(find_checkpoint(directory, /*best=*/false));
  if (epochs) {
    require(*epochs > checkpoint.progress.epoch, "train",
            "{} has trained {} epochs; to go on, ask for more than that in all, not for {}",
            directory.string(), checkpoint.progress.epoch, *epochs);
    require(recipe.train.steps == 0 || checkpoint.progress.step < recipe.train.steps, "train",
            "{} has trained all of its train.steps = {}; more epochs would not add to them",
            directory.string(), recipe.train.steps);
    recipe.train.epochs = *epochs;
    check_recipe(recipe);
    run.replace_recipe(recipe);
  }
  Trainer trainer(recipe, std::move(run), options, /*resumes=*/true);
  trainer.restore(checkpoint);
  return trainer.run();
}

}  // namespace bitdial::train
