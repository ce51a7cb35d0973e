// What a run says on the way: the bar, metrics.jsonl.
#include <cmath>

#include "bitdial/train/training_run.h"

namespace bitdial::train {

ProgressState TrainingRun::progress_state() const {
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

void TrainingRun::add_precision(MetricsLine& line) const {
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

void TrainingRun::log_step(const StepOutcome& outcome) {
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

void TrainingRun::log_epoch(const Evaluations& evaluations, double seconds) {
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

}  // namespace bitdial::train
