#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace bitdial::data {
class Loader;
}
namespace bitdial::models {
class Network;
}
namespace bitdial::nn {
class Session;
}

namespace bitdial::train {

struct Evaluation {
  int64_t images = 0;
  double loss = 0.0;      ///< mean cross-entropy over images
  double accuracy = 0.0;  ///< 0..1
};

/// One pass over the loader's data set with the network in evaluation mode, in the session's evaluation
/// formats, or in float32 without a session. Nothing when `stop` says so on the way.
std::optional<Evaluation> evaluate(models::Network& network, nn::Session* session, data::Loader& loader,
                                   const std::function<bool()>& stop = {});

/// The same in the policy's final precision, if it has one; `current` where the two do not differ at present.
std::optional<Evaluation> evaluate_final(models::Network& network, nn::Session& session, data::Loader& loader,
                                         const Evaluation& current, const std::function<bool()>& stop = {});

struct EvaluationReport {
  std::filesystem::path checkpoint;
  std::string model, data, policy, arithmetic;
  int64_t epochs = 0;               ///< that the network was trained for
  Evaluation quantized;             ///< in the formats and scales of the checkpoint
  std::optional<Evaluation> final;  ///< in the policy's final precision, where it has one
  Evaluation float32;               ///< the same weights without quantisers
};

struct EvaluateOptions {
  bool best = false;  ///< of a run directory: the best checkpoint, not the newest
  std::optional<std::filesystem::path> data_directory;  ///< in place of the recipe's
  int64_t threads = 0;
};

/// Evaluates a run directory, a checkpoint or a quantised network (train/quantized_network.h) on the test
/// split of its recipe.
EvaluationReport evaluate_checkpoint(const std::filesystem::path& run_or_checkpoint,
                                     const EvaluateOptions& options);

}  // namespace bitdial::train
