#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/nn/layer_operands.h"
#include "bitdial/nn/results.h"
#include "bitdial/nn/session_core.h"

namespace bitdial::nn {

LayerBinding::LayerBinding(std::weak_ptr<SessionCore> core, int index, const SessionCore::Found& found)
    : core_(std::move(core)), index_(index), module_(found.module), weight_(found.weight) {}

void PreparedWeight::set_weight(const at::Tensor& weight) {
  data = weight.const_data_ptr();
  version = weight._version();
}

bool PreparedWeight::is_of(const at::Tensor& weight) const {
  return data == weight.const_data_ptr() && version == weight._version();
}

bool PreparedWeight::has_packed(const at::Tensor& codes, kernels::ConvShape shape) const {
  shape.batch = packed_shape.batch;
  return packed_fprop.defined() && quantized.codes.is_same(codes) && packed_shape == shape &&
         packed_isa == kernels::active_isa();
}

std::unique_ptr<kernels::WeightPacking> PreparedWeight::start_packing(const kernels::ConvShape& shape,
                                                                      kernels::CodeType type,
                                                                      BufferPool& pool) {
  auto packing = kernels::WeightPacking::of(shape, type);
  if (packing == nullptr) return packing;
  packed_fprop = pool.take({packing->bytes()}, at::kChar);
  packed_bprop = pool.take({packing->bytes()}, at::kChar);
  packed_shape = shape;
  packed_isa = kernels::active_isa();
  packing->write_to(packed_fprop.mutable_data_ptr(), packed_bprop.mutable_data_ptr());
  return packing;
}

bool LayerBinding::is_active() const {
  const auto core = core_.lock();
  return core != nullptr && core->policy().quantizes();
}

Format LayerBinding::input_format(int option) const {
  return core_.lock()->policy().evaluation_format(
      {.layer = index_, .role = TensorRole::kInput, .option = option});
}

std::optional<KeptResidual> LayerBinding::step_gradients(bool training) const {
  const auto core = core_.lock();
  const bool trains = core != nullptr && training && (!core->has_begun() || core->step().training);
  return trains ? core->policy().step_gradients(index_) : std::nullopt;
}

std::shared_ptr<SessionCore> LayerBinding::begin_call(bool& training) {
  auto core = core_.lock();
  training = training && (!core->has_begun() || core->step().training);
  require(!training || core->has_begun(), "session",
          "begin_step must be called before a forward in training mode");
  ++forwards_;
  core->set_last_layer(shared_from_this(), training);
  return core;
}

std::shared_ptr<LayerOperands> LayerBinding::begin(bool training, const kernels::ConvShape& shape) {
  begin_call(training)->set_macs(index_, shape.macs() / shape.batch);
  return std::make_shared<LayerOperands>(shared_from_this(), training, shape);
}

at::Tensor LayerBinding::conv2d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                const ops::ConvOptions& options, bool training) {
  const auto core = begin_call(training);
  const at::Tensor batch = prepare_input(x.dim() == 3 ? x.unsqueeze(0) : x, training);
  at::Tensor y = ops::conv2d(batch, weight, bias, options, core->options().arithmetic,
                             std::make_shared<LayerOperands>(shared_from_this(), training));
  core->set_macs(index_, y.size(1) * y.size(2) * y.size(3) * (weight.numel() / weight.size(0)));
  y = finish_output(y, training);
  return x.dim() == 3 ? y.squeeze(0) : y;
}

at::Tensor LayerBinding::linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                bool training) {
  const auto core = begin_call(training);
  at::Tensor y = ops::linear(prepare_input(x, training), weight, bias, core->options().arithmetic,
                             std::make_shared<LayerOperands>(shared_from_this(), training));
  const int64_t rows_per_sample = x.dim() > 1 && x.numel() > 0 ? x.numel() / (x.size(0) * x.size(-1)) : 1;
  core->set_macs(index_, rows_per_sample * weight.numel());
  return finish_output(y, training);
}

at::Tensor LayerBinding::prepare_input(const at::Tensor& x, bool training) {
  const ResultQuantization results = core_.lock()->policy().results();
  if (results.inputs_in_place) overwrite_input(shared_from_this(), x, training);
  return results.grad_inputs ? quantize_gradient(shared_from_this(), x, training) : x;
}

at::Tensor LayerBinding::finish_output(const at::Tensor& y, bool training) {
  const bool is_wanted = core_.lock()->policy().results().outputs;
  return is_wanted ? quantize_output(shared_from_this(), y, training) : y;
}

}  // namespace bitdial::nn
