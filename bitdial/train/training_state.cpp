// Where a run begins, what it saves and what it delivers.
#include <cmath>

#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/quantized_network.h"
#include "bitdial/train/training_run.h"
#include "bitdial/train/weights.h"

namespace bitdial::train {

namespace {

/// Of a tensor with one scale, which is a power of two.
std::optional<int> fraction_length_of(const std::vector<QuantParams>& params) {
  int exponent = 0;
  if (params.size() != 1 || std::frexp(params.front().scale, &exponent) != 0.5F) return std::nullopt;
  return 1 - exponent;
}

}  // namespace

NetworkDescription TrainingRun::description() const {
  return {to_toml(recipe_), recipe_.model.name, model_options_.classes, *model_options_.in_channels,
          *model_options_.image_size};
}

void TrainingRun::start_from_init() {
  if (!recipe_.model.init.empty()) {
    import_weights(*network_, read_weights(recipe_.model.init), recipe_.model.init);
  }
  if (working_) working_->start(0);
}

void TrainingRun::restore(const Checkpoint& checkpoint) {
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
  if (recipe_.train.epochs > parse_recipe(checkpoint.network.recipe, source).train.epochs)
    progress_.finished = false;
  seconds_before_call_ = progress_.seconds;
  if (working_) {
    working_->load_state(from_stored(checkpoint.tensors_under("policy.")));
    working_->start(progress_.step);
  }
  run_.rewind(checkpoint.logs);
}

std::filesystem::path TrainingRun::save() {
  Checkpoint checkpoint;
  checkpoint.network = description();
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

void TrainingRun::write_quantized() {
  QuantizedNetwork quantized;
  quantized.network = description();
  quantized.epochs = progress_.epoch;
  quantized.steps = progress_.step;
  quantized.session = session_->state();
  quantized.zeros = working_->zero_fraction();
  for (const WorkingTensor& one : working_->tensors()) {
    quantized.formats.push_back(
        {one.name, one.format.word_length, fraction_length_of(one.params), one.zeros});
  }
  quantized.weights = export_weights(*network_);
  write_quantized_network(run_.quantized_file(), quantized);
}

}  // namespace bitdial::train
