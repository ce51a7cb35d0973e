#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "bitdial/core/policy.h"
#include "bitdial/train/optimizer.h"

namespace bitdial::train {

/// A parameter as the network computes with it.
struct WorkingTensor {
  std::string name;
  Format format;                    ///< float: the master itself
  std::vector<QuantParams> params;  ///< of its scales; empty for a float format
  double zeros = 0.0;               ///< share
};

/// The parameters of a network under a ParameterRule: float32 masters aside, and in the network the working
/// values, which forward, backward and evaluation compute with. Random bits follow from the seed, the number
/// of updates and the parameter, so that a run that goes on finds the same values.
class WorkingWeights {
 public:
  /// Tells `rule` the trainable parameters of `network`. `layers`: the session's. Without an optimiser there
  /// are no updates, only working values for evaluation. Rule, network and optimiser must outlive this.
  WorkingWeights(ParameterRule& rule, const std::vector<LayerInfo>& layers, torch::nn::Module& network,
                 Optimizer* optimizer, uint64_t seed);

  /// Takes what the parameters hold for masters and writes working values. `updates`: done so far.
  void start(int64_t updates);

  /// In place of Optimizer::step: gradients go through the rule, the masters are updated and stay in the
  /// parameters. The spans of the masters that the rule got stay as they were until finish_update(), which
  /// must follow Policy::end_step.
  void update(const StepInfo& step, double loss, int64_t micro_batches, double learning_rate);
  /// Writes the working values of the new masters, in the formats that the rule has by now.
  void finish_update(const StepInfo& step) { start(step.step + 1); }

  /// The masters are in the parameters while one exists: for saving.
  class MasterScope {
   public:
    explicit MasterScope(WorkingWeights& weights);
    ~MasterScope();
    MasterScope(const MasterScope&) = delete;
    MasterScope& operator=(const MasterScope&) = delete;

   private:
    WorkingWeights& weights_;
    std::vector<torch::Tensor> working_;
  };

  /// Share of zeros in the working values of the layers' weights: what sparse inference could skip.
  double zero_fraction() const;

  /// All of them, in the order of the module tree.
  std::vector<WorkingTensor> tensors() const;

  /// Views of the rule's buffers, for checkpoints.
  std::map<std::string, torch::Tensor> state();
  /// Throws Error naming a tensor that is missing or has another size.
  void load_state(const std::map<std::string, torch::Tensor>& state);

 private:
  struct Parameter {
    ParameterInfo info;
    torch::Tensor tensor;
    torch::Tensor master;
    Format format;                    // of the working values
    std::vector<QuantParams> params;  // the same
  };

  void put_masters();
  RandomKey key(size_t parameter, int64_t step, uint32_t stream) const;
  void change_gradient(size_t parameter, const torch::Tensor& working, const StepInfo& step);

  ParameterRule& rule_;
  Optimizer* optimizer_;
  uint64_t seed_;
  std::vector<Parameter> parameters_;
};

}  // namespace bitdial::train
