#include "bitdial/kernels/depthwise.h"

#include "bitdial/kernels/depthwise_general.h"
#include "bitdial/kernels/vector/conv2d.h"

namespace bitdial::kernels::depthwise {
namespace {

const DepthwiseKernels* kernels_of(Isa isa) {
  static constexpr const DepthwiseKernels* kNone = nullptr;
  return by_vector_width(isa, kNone, avx2::kDepthwise, avx512vnni::kDepthwise);
}

void forward(const ConvShape& s, const Operand& x, const Operand& w, const float* bias, const Output& y) {
  if (vector::supports_depthwise(s, x, w)) {
    vector::active_engine()->depthwise_rows(vector::depthwise_forward(s, x, w, bias, y));
    return;
  }
  run_rows(*kernels_of(active_isa()),
           {.batch = s.batch,
            .in_height = s.in_height,
            .in_width = s.in_width,
            .out_height = s.out_height(),
            .out_width = s.out_width(),
            .channels = s.in_channels,
            .kernel_width = s.kernel_width,
            .kernel_taps = s.kernel_height * s.kernel_width,
            .a = x,
            .w = w,
            .bias = bias,
            .out = y},
           {forward_axis(vertical(s))}, {forward_axis(horizontal(s))});
}

void backward_data(const ConvShape& s, const Operand& dy, const Operand& w, const Output& dx) {
  if (vector::supports_depthwise(s, dy, w)) {
    vector::active_engine()->depthwise_rows(vector::depthwise_backward_data(s, dy, w, dx));
    return;
  }
  run_rows(*kernels_of(active_isa()),
           {.batch = s.batch,
            .in_height = s.out_height(),
            .in_width = s.out_width(),
            .out_height = s.in_height,
            .out_width = s.in_width,
            .channels = s.in_channels,
            .kernel_width = s.kernel_width,
            .kernel_taps = s.kernel_height * s.kernel_width,
            .a = dy,
            .w = w,
            .bias = nullptr,
            .out = dx},
           backward_data_axes(vertical(s)), backward_data_axes(horizontal(s)));
}

void backward_weight(const ConvShape& s, const Operand& x, const Operand& dy, float* dw) {
  if (vector::supports_depthwise(s, x, dy)) {
    vector::active_engine()->depthwise_gradient({s, x, dy, dw});
    return;
  }
  run_gradient(*kernels_of(active_isa()), s, x, dy, dw);
}

}  // namespace

bool supports(const ConvShape& shape, Isa isa) {
  return shape.groups > 1 && shape.groups == shape.in_channels && shape.in_channels == shape.out_channels &&
         shape.kernel_height * shape.kernel_width <= kMaxProducts && kernels_of(isa) != nullptr;
}

const Conv2dKernels kConv2d = {forward, backward_data, backward_weight};

}  // namespace bitdial::kernels::depthwise
