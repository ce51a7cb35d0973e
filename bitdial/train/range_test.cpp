#include "bitdial/train/range_test.h"

#include <cmath>
#include <numeric>

#include "bitdial/core/error.h"
#include "bitdial/models/network.h"
#include "bitdial/nn/session.h"
#include "bitdial/policies/cpt.h"
#include "bitdial/policies/registry.h"
#include "bitdial/train/batch.h"
#include "bitdial/train/optimizer.h"
#include "bitdial/train/schedule.h"
#include "bitdial/train/setup.h"

namespace bitdial::train {
namespace {

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// One network that goes on training while its precision rises.
class RangeTest {
 public:
  RangeTest(const Recipe& recipe, const Policy& policy)
      : recipe_(recipe),
        data_(open_split(recipe, data::Split::kTrain)),
        loader_(data_, loader_options(recipe, data::Split::kTrain)),
        network_(make_network(policy)),
        optimizer_(recipe.optimizer, *network_),
        schedule_(recipe.schedule, recipe.optimizer.learning_rate, loader_.batches(), total_steps()) {
    require(loader_.batches() > 0, "train", "no batches: {} training images, batches of {}", data_->size(),
            recipe.data.batch_size);
    loader_.start_epoch(0);
    network_->train();
  }

  /// Training accuracies of so many iterations at one precision.
  std::vector<double> train_window(int bits, int gradient, const nlohmann::json& layers, int64_t window,
                                   const std::function<bool()>& stop) {
    nlohmann::json options = layers;
    options["preset"] = "shared";
    options["weight_bits"] = options["activation_bits"] = bits;
    options["gradient_bits"] = gradient;
    nn::Session session(policies::make("static", options), session_options(recipe_));
    session.attach(*network_);
    std::vector<double> accuracies;
    while (std::ssize(accuracies) < window && !(stop && stop())) accuracies.push_back(run_step(session));
    return accuracies;
  }

 private:
  std::shared_ptr<models::Network> make_network(const Policy& policy) const {
    torch::manual_seed(static_cast<uint64_t>(recipe_.train.seed));
    return models::make(recipe_.model.name, model_options(recipe_, *data_, policy));
  }

  int64_t total_steps() const { return train::total_steps(recipe_.train, loader_.batches()); }

  double run_step(nn::Session& session) {
    auto batch = loader_.next();
    if (!batch) {
      loader_.start_epoch(++epoch_);
      batch = loader_.next();
    }
    const auto [images, labels] = tensors_of(*batch, data_->shape());
    StepInfo info{.step = step_, .epoch = epoch_, .steps_per_epoch = loader_.batches()};
    info.total_steps = total_steps();
    optimizer_.zero_grad();
    session.begin_step(info);
    torch::Tensor logits, loss;
    {
      const nn::ForwardScope scope(session);
      logits = network_->forward(images).to(torch::kFloat32);
      loss = torch::nn::functional::cross_entropy(
          logits, labels,
          torch::nn::functional::CrossEntropyFuncOptions().label_smoothing(recipe_.train.label_smoothing));
    }
    const auto value = loss.item<double>();
    require(std::isfinite(value), "train", "range test, iteration {}: the loss is not finite", step_);
    loss.backward();
    const double learning_rate = schedule_.learning_rate(step_);
    optimizer_.step(learning_rate);
    session.end_step(info, {value, learning_rate});
    ++step_;
    const torch::NoGradGuard no_grad;
    const auto correct = logits.argmax(1).eq(labels).sum().item<int64_t>();
    const double accuracy = static_cast<double>(correct) / static_cast<double>(labels.size(0));
    loader_.recycle(std::move(*batch));
    return accuracy;
  }

  const Recipe& recipe_;
  std::shared_ptr<const data::Dataset> data_;
  data::Loader loader_;
  std::shared_ptr<models::Network> network_;
  Optimizer optimizer_;
  Schedule schedule_;
  int64_t step_ = 0;
  int64_t epoch_ = 0;
};

}  // namespace

RangeTestLevel summarise_window(int bits, std::span<const double> accuracies) {
  require(accuracies.size() >= 2, "train", "a window of the range test has at least 2 iterations, not {}",
          accuracies.size());
  const size_t half = accuracies.size() / 2;
  return {.bits = bits,
          .first_half = mean(accuracies.first(half)),
          .last_half = mean(accuracies.last(accuracies.size() - half))};
}

RangeTestResult range_test(const Recipe& recipe, const RangeTestOptions& options) {
  check_recipe(recipe);
  const auto policy = policies::make(recipe.precision.policy, recipe.precision.options);
  const auto* cpt = dynamic_cast<const policies::CptPolicy*>(policy.get());
  require(cpt != nullptr, "train", "the range test finds Bmin of the policy cpt, the recipe has {}",
          policy->name());
  require(options.window >= 2, "train", "a window of the range test has at least 2 iterations, not {}",
          options.window);
  RangeTestResult result;
  result.maximum = cpt->forward_bounds().maximum;
  result.gradient = cpt->gradient_bounds().maximum;
  require(options.start >= 2 && options.start <= result.maximum, "train",
          "the range test starts between 2 bits and Bmax = {}, not at {}", result.maximum, options.start);
  configure_threads(recipe.train.threads);
  const nlohmann::json all = policy->options();
  const nlohmann::json layers{{"layers", all.at("layers")}, {"depthwise", all.at("depthwise")}};

  RangeTest test(recipe, *policy);
  for (int bits = options.start; bits <= result.maximum; ++bits) {
    const auto accuracies = test.train_window(bits, result.gradient, layers, options.window, options.stop);
    if (std::ssize(accuracies) < options.window) {
      result.stopped = true;
      return result;
    }
    result.levels.push_back(summarise_window(bits, accuracies));
    if (result.levels.back().gain() > options.threshold) {
      result.minimum = bits;
      return result;
    }
  }
  return result;
}

}  // namespace bitdial::train
