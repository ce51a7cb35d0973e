#pragma once

#include <torch/torch.h>

#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "bitdial/nn/weight_updater.h"
#include "bitdial/train/recipe.h"

namespace bitdial::train {

/// SGD (momentum, dampening, Nesterov), Adam and AdamW with torch.optim's update rules, through LibTorch's
/// fused kernels. Keeps its state by parameter name, so that a checkpoint can hold it.
class Optimizer : public nn::WeightUpdater {
 public:
  /// Every parameter of `module` that requires a gradient.
  Optimizer(const OptimizerRecipe& recipe, torch::nn::Module& module);

  /// Until step(), SGD updates the weights that a session's stages hand over as soon as their gradients are
  /// known, with this learning rate (Session::set_weight_updater). They have no Tensor::grad then, and count
  /// in no norm.
  void update_in_backward(double learning_rate);
  /// Updates every parameter that has a gradient.
  void step(double learning_rate);
  void zero_grad();
  /// From now on nothing decays.
  void end_weight_decay();
  /// False: the gradients bring their weight decay with them (ParameterRule::decays_weights).
  void set_weight_decay(bool is_on) { decays_ = is_on; }
  /// What the recipe says for this parameter.
  double weight_decay(const torch::Tensor& parameter) const;

  /// Global 2-norm of the gradients, in float64 over the norms of the parameters; NaN if one that was used up
  /// in backward was not finite.
  double gradient_norm() const;
  void scale_gradients(double factor);
  /// Name of the first parameter whose gradient holds NaN or infinity; empty if none does.
  std::string first_non_finite_gradient() const;

  /// "momentum.<parameter>", "exp_avg.<parameter>", ...: views of the live state, for saving.
  std::map<std::string, torch::Tensor> state() const;
  /// Throws Error naming a tensor that is missing or has another shape.
  void load_state(const std::map<std::string, torch::Tensor>& state);

  std::optional<kernels::SgdUpdate> begin(const torch::Tensor& weight) override;
  void end(const torch::Tensor& weight, const Range& range) override;

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
  void add_l1();
  bool is_sgd() const { return recipe_.name == "sgd"; }

  struct Place {
    Group* group = nullptr;
    Parameter* parameter = nullptr;
  };

  OptimizerRecipe recipe_;
  bool decays_ = true;
  std::vector<Group> groups_;
  std::unordered_map<const c10::TensorImpl*, Place> places_;
  std::optional<double> early_rate_;  ///< of updates in backward
  std::string not_finite_;            ///< a weight whose gradient was used up and not finite
};

}  // namespace bitdial::train
