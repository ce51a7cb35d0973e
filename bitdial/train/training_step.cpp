// One optimiser step: gradients over the micro-batches, checks, the update.
#include <cmath>

#include "bitdial/train/finite_probe.h"
#include "bitdial/train/training_run.h"

namespace bitdial::train {

namespace {

/// "layer1.0.conv1.weight" -> "layer1.0.conv1"
std::string layer_of(const std::string& parameter) { return parameter.substr(0, parameter.rfind('.')); }

}  // namespace

void TrainingRun::explain_non_finite_loss(const torch::Tensor& images, const StepInfo& info) {
  // The session goes: the layers now report to the probe.
  const std::string layer = first_non_finite_operand(*network_, session_, images, info);
  fail("train", "step {}: the loss is not finite; first operand that is not finite: {}", info.step, layer);
}

StepOutcome TrainingRun::accumulate_gradients(const BatchTensors& batch, StepInfo& info) {
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

void TrainingRun::check_gradients(const StepInfo& info) {
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

StepOutcome TrainingRun::run_step(data::Batch& batch) {
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

}  // namespace bitdial::train
