#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bitdial/train/tensor_file.h"

/// What a run needs to go on, in one safetensors file: tensors under "model.", "optimizer." and "rng.",
/// everything else as JSON in its metadata. Numbers are stored exactly.
namespace bitdial::train {

/// Where a run stands: everything before (epoch, batch) is done.
struct Progress {
  int64_t epoch = 0;
  int64_t batch = 0;  ///< within the epoch
  int64_t step = 0;   ///< optimiser steps since the start

  // Sums over the finished batches of a started epoch.
  double loss_sum = 0.0;  ///< over images
  int64_t correct = 0;
  int64_t images = 0;

  double learning_rate = 0.0;  ///< of the last step

  double best_accuracy = -1.0;  ///< on the test split; negative before the first evaluation
  int64_t best_epoch = -1;
  double seconds = 0.0;  ///< spent training and evaluating
  bool finished = false;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Progress, epoch, batch, step, loss_sum, correct, images, learning_rate,
                                   best_accuracy, best_epoch, seconds, finished)

/// Which network a file holds the weights of: all that building it again needs.
struct NetworkDescription {
  std::string recipe;  ///< fully resolved, as TOML
  std::string model;   ///< name in the zoo
  int64_t classes = 0;
  int64_t in_channels = 0;
  int64_t image_size = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(NetworkDescription, recipe, model, classes, in_channels, image_size)

struct Checkpoint {
  NetworkDescription network;
  int64_t steps_per_epoch = 0;  ///< 0: written by an older version
  Progress progress;
  nlohmann::json schedule;
  nlohmann::json session;                      ///< policy state, scales, running ranges
  nlohmann::json cost;                         ///< sums of the analytic cost, GEMMs; null: not counted
  nlohmann::json logs;                         ///< how long the run's logs were (RunDirectory::sync)
  std::optional<double> policy_learning_rate;  ///< a policy took the learning rate over
  std::vector<StoredTensor> tensors;

  /// Tensors whose names begin with `prefix`, without it.
  TensorFile tensors_under(const std::string& prefix) const;
};

/// Atomic: the old file or the new one, never a part.
void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint);

/// Throws Error that names the file and what is wrong with it.
Checkpoint read_checkpoint(const std::filesystem::path& path);
/// The same of a file already read from `path`.
Checkpoint to_checkpoint(TensorFile file, const std::filesystem::path& path);

}  // namespace bitdial::train
