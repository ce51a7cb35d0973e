#include "bitdial/ops/float_convolution.h"

#include <ATen/ATen.h>

#include <array>
#include <tuple>

namespace bitdial::ops {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& dy, const at::Tensor& x,
                                                        const at::Tensor& w, const ConvOptions& o,
                                                        const std::array<bool, 3>& mask) {
  return at::convolution_backward(dy, x, w, std::nullopt, o.stride, o.padding, o.dilation, false, {0, 0},
                                  o.groups, mask);
}

// Of the operand that a direction does not read only the sizes and the memory order matter.
at::Tensor unread(at::IntArrayRef sizes, const at::Tensor& dy) {
  return at::empty(sizes, dy.options(), dy.suggest_memory_format());
}

/// The pixels that a strided convolution of 1x1 kernels reads.
at::Tensor read_pixels(const at::Tensor& x, const ConvOptions& o) {
  return x.slice(2, 0, std::nullopt, o.stride[0]).slice(3, 0, std::nullopt, o.stride[1]);
}

}  // namespace

at::Tensor float_forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias,
                         const ConvOptions& o) {
  return at::convolution(x, w, bias, o.stride, o.padding, o.dilation, false, {0, 0}, o.groups);
}

at::Tensor float_data_gradient(const at::Tensor& dy, const at::Tensor& w, at::IntArrayRef x_sizes,
                               const ConvOptions& options) {
  return std::get<0>(backward(dy, unread(x_sizes, dy), w, options, {true, false, false}));
}

// oneDNN's weight gradient of a strided 1x1 convolution with few channels writes outside its buffers
// (uxlfoundation/oneDNN issue 6035); with the pixels that it reads as input the stride is one.
at::Tensor float_weight_gradient(const at::Tensor& dy, const at::Tensor& x, at::IntArrayRef w_sizes,
                                 const ConvOptions& options) {
  constexpr std::array<bool, 3> kMask = {false, true, false};
  const at::Tensor w = unread(w_sizes, dy);
  const bool is_pointwise =
      w_sizes[2] == 1 && w_sizes[3] == 1 && options.padding[0] == 0 && options.padding[1] == 0;
  if (!is_pointwise) return std::get<1>(backward(dy, x, w, options, kMask));
  ConvOptions dense = options;
  dense.stride = {1, 1};
  return std::get<1>(backward(dy, read_pixels(x, options), w, dense, kMask));
}

}  // namespace bitdial::ops
