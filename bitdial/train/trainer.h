#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "bitdial/cost/network_cost.h"
#include "bitdial/nn/session.h"
#include "bitdial/train/evaluation.h"
#include "bitdial/train/progress_bar.h"
#include "bitdial/train/recipe.h"
#include "bitdial/train/step_profile.h"
#include "bitdial/train/timings.h"

namespace bitdial::train {

struct TrainOptions {
  /// Asked after every optimiser step and during evaluations; true: save a checkpoint and return.
  std::function<bool()> stop;
  /// Told how many of the GEMMs that the policy wants to know the times of have been timed, before training.
  MeasureProgress measuring;
  bool profiles = false;  ///< find out where the time of the optimiser steps goes
  BarOptions bar;
};

struct TrainSummary {
  std::filesystem::path directory;
  bool finished = false;  ///< false: stopped; train again with `resume`
  int64_t epochs = 0;
  int64_t steps = 0;
  double train_loss = 0.0;                     ///< mean over the images of the last whole epoch of this call
  std::optional<Evaluation> evaluation;        ///< the last on the test split
  std::optional<Evaluation> final_evaluation;  ///< the same in the policy's final precision, if it has one
  std::optional<Evaluation> validation;  ///< the last on training images that are held out, if there are any
  double best_accuracy = 0.0;
  double seconds = 0.0;  ///< of training and evaluating, earlier calls included
  nn::PrecisionSummary precision;
  cost::CostTotals cost;  ///< analytic, of all steps
  /// Of the layers' weights as the network computes with them, where the policy quantises parameters.
  std::optional<double> zero_fraction;
  /// Of a finished run of such a policy: the file with the network as it computes.
  std::optional<std::filesystem::path> quantized_network;
  std::optional<StepProfile> profile;  ///< of the steps of this call, where asked for and there were any
};

/// Trains what the recipe describes, into the new run directory `directory`.
///
/// Throws Error when recipe and data do not fit each other, and when a loss, a gradient or a range is not
/// finite: the error names layer and step, and the last checkpoint is kept.
TrainSummary train(const Recipe& recipe, const std::filesystem::path& directory,
                   const TrainOptions& options = {});

/// Goes on with a run from its newest checkpoint: on the same machine, thread count and libraries the result
/// is bit for bit that of a run that was never stopped.
///
/// `epochs` gives the run another length, those already trained included: a finished run goes on, and from
/// its next step the learning rate is what the schedule prescribes there for a run of this length. Throws
/// Error unless it is more than what was trained.
TrainSummary resume(const std::filesystem::path& directory, const TrainOptions& options = {},
                    std::optional<int64_t> epochs = {});

}  // namespace bitdial::train
