#include <torch/torch.h>

#include <algorithm>

#include "bitdial/core/error.h"
#include "bitdial/nn/conv2d.h"
#include "bitdial/nn/linear.h"
#include "bitdial/nn/session_core.h"

namespace bitdial::nn {
namespace {

namespace F = torch::nn::functional;

std::array<int64_t, 2> pair(const torch::ExpandingArray<2>& values) { return {(*values)[0], (*values)[1]}; }

// Padding that at::convolution's symmetric zeros cannot express is applied to the input.
struct Padded {
  torch::Tensor x;
  std::array<int64_t, 2> padding;
};

// both_sides: left, right, top, bottom.
template <class Mode>
Padded pad(const torch::Tensor& x, const Mode& mode, const std::vector<int64_t>& both_sides) {
  F::PadFuncOptions padding(both_sides);
  if (std::holds_alternative<torch::enumtype::kReflect>(mode)) {
    padding.mode(torch::kReflect);
  } else if (std::holds_alternative<torch::enumtype::kReplicate>(mode)) {
    padding.mode(torch::kReplicate);
  } else if (std::holds_alternative<torch::enumtype::kCircular>(mode)) {
    padding.mode(torch::kCircular);
  } else if (both_sides[0] == both_sides[1] && both_sides[2] == both_sides[3]) {
    return {x, {both_sides[2], both_sides[0]}};
  }
  return {F::pad(x, padding), {0, 0}};
}

// Left, right, top, bottom. Not torch's _reversed_padding_repeated_twice, which has "same" in the wrong
// order.
std::vector<int64_t> padding_of(const torch::nn::detail::ConvNdOptions<2>& options) {
  if (const auto* explicit_padding = std::get_if<torch::ExpandingArray<2>>(&options.padding())) {
    const auto [rows, columns] = pair(*explicit_padding);
    return {columns, columns, rows, rows};
  }
  if (std::holds_alternative<torch::enumtype::kValid>(options.padding())) return {0, 0, 0, 0};
  const auto [kernel_rows, kernel_columns] = pair(options.kernel_size());
  const auto [dilation_rows, dilation_columns] = pair(options.dilation());
  const int64_t rows = dilation_rows * (kernel_rows - 1), columns = dilation_columns * (kernel_columns - 1);
  return {columns / 2, columns - columns / 2, rows / 2, rows - rows / 2};
}

template <class Layer>
std::shared_ptr<torch::nn::Module> finish_clone(const Layer& from, std::shared_ptr<Layer> copy,
                                                const std::optional<torch::Device>& device) {
  const torch::NoGradGuard no_grad;
  const auto transfer = [&](const torch::Tensor& source, torch::Tensor& target) {
    if (!source.defined()) return;
    target.set_data(device && source.device() != *device ? source.detach().to(*device)
                                                         : source.detach().clone());
    target.set_requires_grad(source.requires_grad());
  };
  transfer(from.weight, copy->weight);
  transfer(from.bias, copy->bias);
  copy->train(from.is_training());
  return copy;
}

torch::nn::Conv2dOptions to_options(const torch::nn::detail::ConvNdOptions<2>& from) {
  return torch::nn::Conv2dOptions(from.in_channels(), from.out_channels(), from.kernel_size())
      .stride(from.stride())
      .padding(from.padding())
      .dilation(from.dilation())
      .groups(from.groups())
      .bias(from.bias())
      .padding_mode(from.padding_mode());
}

}  // namespace

Conv2dImpl::Conv2dImpl(torch::nn::Conv2dOptions options) : torch::nn::Conv2dImpl(std::move(options)) {
  weight.set_data(weight.detach().contiguous(at::MemoryFormat::ChannelsLast));
}

torch::Tensor Conv2dImpl::forward(const torch::Tensor& x) {
  if (!binding_ || !binding_->is_active()) return torch::nn::Conv2dImpl::forward(x);
  const Padded padded = pad(x, options.padding_mode(), padding_of(options));
  const ops::ConvOptions conv{.stride = pair(options.stride()),
                              .padding = padded.padding,
                              .dilation = pair(options.dilation()),
                              .groups = options.groups()};
  return binding_->conv2d(padded.x, weight, bias, conv, is_training());
}

std::optional<ops::ConvOptions> Conv2dImpl::gemm_options() const {
  const std::vector<int64_t> sides = padding_of(options);
  const bool is_plain = std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode()) &&
                        sides[0] == sides[1] && sides[2] == sides[3];
  if (!is_plain) return std::nullopt;
  return ops::ConvOptions{.stride = pair(options.stride()),
                          .padding = {sides[2], sides[0]},
                          .dilation = pair(options.dilation()),
                          .groups = options.groups()};
}

LayerInfo Conv2dImpl::describe() const {
  const bool is_depthwise = options.groups() > 1 && options.groups() == options.in_channels();
  LayerInfo info;
  info.kind = is_depthwise ? LayerKind::kDepthwiseConv2d : LayerKind::kConv2d;
  info.weights = weight.numel();
  info.kernel = std::max((*options.kernel_size())[0], (*options.kernel_size())[1]);
  info.stride = std::max((*options.stride())[0], (*options.stride())[1]);
  return info;
}

void Conv2dImpl::pretty_print(std::ostream& stream) const {
  stream << "bitdial::";
  torch::nn::Conv2dImpl::pretty_print(stream);
}

std::shared_ptr<torch::nn::Module> Conv2dImpl::clone(const std::optional<torch::Device>& device) const {
  return finish_clone(*this, std::make_shared<Conv2dImpl>(to_options(options)), device);
}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) {
  if (!binding_ || !binding_->is_active()) return torch::nn::LinearImpl::forward(x);
  return binding_->linear(x, weight, bias, is_training());
}

LayerInfo LinearImpl::describe() const {
  LayerInfo info;
  info.kind = LayerKind::kLinear;
  info.weights = weight.numel();
  return info;
}

void LinearImpl::pretty_print(std::ostream& stream) const {
  stream << "bitdial::";
  torch::nn::LinearImpl::pretty_print(stream);
}

std::shared_ptr<torch::nn::Module> LinearImpl::clone(const std::optional<torch::Device>& device) const {
  return finish_clone(*this, std::make_shared<LinearImpl>(options), device);
}

}  // namespace bitdial::nn
