#pragma once

#include <torch/torch.h>

#include <map>
#include <string>
#include <vector>

#include "bitdial/train/recipe.h"

namespace bitdial::train {

/// SGD (momentum, dampening, Nesterov), Adam and AdamW with torch.optim's update rules, through LibTorch's
/// fused kernels. Keeps its state by parameter name, so that a checkpoint can hold it.
class Optimizer {
 public:
  /// Every parameter of `module` that requires a gradient.
  Optimizer(const OptimizerRecipe& recipe, torch::nn::Module& module);

  /// Updates every parameter that has a gradient.
  void step(double learning_rate);
  void zero_grad();

  /// Global 2-norm of the gradients, in float64 over the norms of the parameters.
  double gradient_norm() const;
  void scale_gradients(double factor);
  /// Name of the first parameter whose gradient holds NaN or infinity; empty if none does.
  std::string first_non_finite_gradient() const;

  /// "momentum.<parameter>", "exp_avg.<parameter>", ...: views of the live state, for saving.
  std::map<std::string, torch::Tensor> state() const;
  /// Throws Error naming a tensor that is missing or has another shape.
  void load_state(const std::map<std::string, torch::Tensor>& state);

 private:
  struct Parameter {
    std::string name;
    torch::Tensor tensor;
    torch::Tensor first;   ///< momentum buffer, or Adam's exp_avg; undefined before the first step
    torch::Tensor second;  ///< Adam's exp_avg_sq
    torch::Tensor steps;   ///< updates so far, a float32 scalar as LibTorch's kernels want it
  };
  struct Group {
    double weight_decay = 0.0;
    std::vector<Parameter> parameters;
  };

  void update_sgd(const Group& group, const std::vector<Parameter*>& parameters, double learning_rate,
                  bool first);
  void update_adam(const Group& group, const std::vector<Parameter*>& parameters, double learning_rate);
  void start_state(Parameter& parameter) const;
  bool is_sgd() const { return recipe_.name == "sgd"; }

  OptimizerRecipe recipe_;
  std::vector<Group> groups_;
};

}  // namespace bitdial::train
