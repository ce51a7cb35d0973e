#include "bitdial/train/evaluation.h"

#include "bitdial/core/error.h"
#include "bitdial/models/network.h"
#include "bitdial/nn/norm.h"
#include "bitdial/train/batch.h"
#include "bitdial/train/checkpoint.h"
#include "bitdial/train/checkpoint_folder.h"
#include "bitdial/train/quantized_network.h"
#include "bitdial/train/setup.h"
#include "bitdial/train/weights.h"
#include "bitdial/train/working_weights.h"

namespace bitdial::train {

namespace {

/// Puts a network back into the mode it was in.
class EvaluationMode {
 public:
  explicit EvaluationMode(models::Network& network)
      : network_(network), was_training_(network.is_training()) {
    network_.eval();
  }
  ~EvaluationMode() { network_.train(was_training_); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  models::Network& network_;
  bool was_training_;
};

// Range BN quantises its own input, whether or not a session is attached.
void stop_quantizing_norms(models::Network& network) {
  for (const auto& module : network.modules()) {
    if (auto* const norm = module->as<nn::RangeBatchNorm2d>()) norm->options.quantize_bits.reset();
  }
}

}  // namespace

std::optional<Evaluation> evaluate(models::Network& network, nn::Session* session, data::Loader& loader,
                                   const std::function<bool()>& stop) {
  torch::NoGradGuard no_grad;
  const EvaluationMode mode(network);
  Evaluation result;
  int64_t correct = 0;
  loader.start_epoch(0);
  while (auto batch = loader.next()) {
    if (stop && stop()) return std::nullopt;
    const auto [images, labels] = tensors_of(*batch, loader.dataset().shape());
    torch::Tensor logits;
    {
      std::optional<nn::ForwardScope> scope;
      if (session) scope.emplace(*session);
      logits = network.forward(images).to(torch::kFloat32);
    }
    const auto loss = torch::nn::functional::cross_entropy(
        logits, labels, torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kSum));
    result.loss += loss.item<double>();
    correct += logits.argmax(1).eq(labels).sum().item<int64_t>();
    result.images += batch->size;
    loader.recycle(std::move(*batch));
  }
  result.loss /= static_cast<double>(result.images);
  result.accuracy = static_cast<double>(correct) / static_cast<double>(result.images);
  return result;
}

std::optional<Evaluation> evaluate_final(models::Network& network, nn::Session& session, data::Loader& loader,
                                         const Evaluation& current, const std::function<bool()>& stop) {
  if (!session.policy().has_final_precision()) return std::nullopt;
  if (!session.has_other_final_precision()) return current;
  session.set_evaluation_precision(nn::EvaluationPrecision::kFinal);
  auto result = evaluate(network, &session, loader, stop);
  session.set_evaluation_precision(nn::EvaluationPrecision::kCurrent);
  return result;
}

EvaluationReport evaluate_checkpoint(const std::filesystem::path& run_or_checkpoint,
                                     const EvaluateOptions& options) {
  EvaluationReport report;
  report.checkpoint = find_checkpoint(run_or_checkpoint, options.best);
  const auto [checkpoint, is_quantized] = read_trained_network(report.checkpoint);
  Recipe recipe = parse_recipe(checkpoint.network.recipe, report.checkpoint.string());
  if (options.data_directory) recipe.data.directory = options.data_directory->string();
  configure_threads(options.threads > 0 ? options.threads : recipe.train.threads);

  const auto dataset = open_split(recipe, data::Split::kTest);
  const auto policy = make_policy(recipe.precision);
  const auto network = models::make(recipe.model.name, model_options(recipe, *dataset, *policy));
  import_weights(*network, checkpoint.tensors_under("model."), report.checkpoint.string());
  data::Loader loader(dataset, loader_options(recipe, data::Split::kTest));

  {
    nn::Session session(policy, session_options(recipe));
    session.attach(*network);
    std::optional<WorkingWeights> working;
    if (ParameterRule* rule = policy->parameter_rule()) {
      working.emplace(*rule, session.layers(), *network, nullptr, static_cast<uint64_t>(recipe.train.seed));
      if (!is_quantized) working->load_state(from_stored(checkpoint.tensors_under("policy.")));
    }
    session.load_state(checkpoint.session);
    if (working && !is_quantized) working->start(checkpoint.progress.step);
    report.quantized = *evaluate(*network, &session, loader);
    report.final = evaluate_final(*network, session, loader, report.quantized);
  }
  stop_quantizing_norms(*network);
  // The masters, where the policy computes with other values.
  import_weights(*network, checkpoint.tensors_under("model."), report.checkpoint.string());
  report.float32 = *evaluate(*network, nullptr, loader);

  report.model = recipe.model.name;
  report.data = recipe.data.name;
  report.policy = policy->name();
  report.arithmetic = policy->quantizes() ? recipe.precision.arithmetic : "float";
  report.epochs = checkpoint.progress.epoch;
  return report;
}

}  // namespace bitdial::train
