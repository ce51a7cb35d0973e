#include "bitdial/nn/results.h"

#include <torch/torch.h>

#include "bitdial/nn/layer_operands.h"

namespace bitdial::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What a backward needs, carried by the graph.
struct ResultCall : torch::CustomClassHolder {
  std::shared_ptr<LayerOperands> operands;
};

c10::intrusive_ptr<ResultCall> make_call(const std::shared_ptr<LayerBinding>& layer, bool training) {
  auto call = c10::make_intrusive<ResultCall>();
  call->operands = std::make_shared<LayerOperands>(layer, training);
  return call;
}

class OutputOnGrid : public torch::autograd::Function<OutputOnGrid> {
 public:
  static at::Tensor forward(AutogradContext*, const at::Tensor& y,
                            const c10::intrusive_ptr<ResultCall>& call) {
    return call->operands->on_grid(TensorRole::kOutput, y);
  }
  static variable_list backward(AutogradContext*, const variable_list& gradients) {
    return {gradients[0], at::Tensor()};
  }
};

class GradientOnGrid : public torch::autograd::Function<GradientOnGrid> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const c10::intrusive_ptr<ResultCall>& call) {
    ctx->saved_data["call"] = at::IValue::make_capsule(call);
    return x.view_as(x);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    if (!gradients[0].defined()) return variable_list(2);
    const auto call = c10::static_intrusive_pointer_cast<ResultCall>(ctx->saved_data["call"].toCapsule());
    const at::NoGradGuard no_grad;
    return {call->operands->on_grid(TensorRole::kGradInput, gradients[0]), at::Tensor()};
  }
};

}  // namespace

at::Tensor quantize_output(const std::shared_ptr<LayerBinding>& layer, const at::Tensor& y, bool training) {
  return OutputOnGrid::apply(y, make_call(layer, training));
}

at::Tensor quantize_gradient(const std::shared_ptr<LayerBinding>& layer, const at::Tensor& x, bool training) {
  if (!at::GradMode::is_enabled() || !x.requires_grad()) return x;
  return GradientOnGrid::apply(x, make_call(layer, training));
}

void overwrite_input(const std::shared_ptr<LayerBinding>& layer, const at::Tensor& x, bool training) {
  // Without its graph and version: backward is to see the quantised values, too.
  at::Tensor data = x.detach();
  data.unsafeGetTensorImpl()->set_version_counter(c10::VariableVersion(0));
  data.copy_(LayerOperands(layer, training).on_grid(TensorRole::kInput, x));
}

}  // namespace bitdial::nn
