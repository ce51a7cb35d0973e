// LibTorch's convolutions and matrix products, called as the layers call them (ops/gemm_problem.cpp).
#include <ATen/ATen.h>
#include <torch/version.h>

#include "bitdial/core/parallel.h"
#include "bitdial/cost/work.h"
#include "bitdial/ops/float_convolution.h"

namespace bitdial::cost {
namespace {

struct Operands {
  at::Tensor x, w, dy;
};

bool is_matrix_product(const kernels::ConvShape& s) {
  return s.in_width == 1 && s.kernel_height == 1 && s.kernel_width == 1 && s.stride_height == 1 &&
         s.padding_height == 0 && s.padding_width == 0 && s.groups == 1;
}

std::function<void()> matrix_product(const Operands& t, Gemm gemm) {
  switch (gemm) {
    case Gemm::kFprop:
      return [t] { at::linear(t.x, t.w); };
    case Gemm::kBprop:
      return [t] { t.dy.matmul(t.w); };
    case Gemm::kWtgrad:
      return [t] { t.dy.t().matmul(t.x).to(at::kFloat); };
  }
  return {};
}

std::function<void()> convolution(const kernels::ConvShape& s, const Operands& t, Gemm gemm) {
  const ops::ConvOptions options{.stride = {s.stride_height, s.stride_width},
                                 .padding = {s.padding_height, s.padding_width},
                                 .dilation = {s.dilation_height, s.dilation_width},
                                 .groups = s.groups};
  switch (gemm) {
    case Gemm::kFprop:
      return [=] { ops::float_forward(t.x, t.w, {}, options); };
    case Gemm::kBprop:
      return [=] { ops::float_data_gradient(t.dy, t.w, t.x.sizes(), options); };
    case Gemm::kWtgrad:
      return [=] { ops::float_weight_gradient(t.dy, t.x, t.w.sizes(), options); };
  }
  return {};
}

}  // namespace

std::function<void()> prepare_cast(int64_t elements) {
  const at::Tensor x = at::ones({elements}, at::kFloat);
  return [x] { x.to(at::kBFloat16); };
}

OneThread::OneThread() : own_(num_threads()), libtorch_(at::get_num_threads()) {
  at::set_num_threads(1);
  set_num_threads(1);
}

OneThread::~OneThread() {
  at::set_num_threads(libtorch_);
  set_num_threads(own_);
}

std::string libtorch_version() { return TORCH_VERSION; }

std::function<void()> prepare_float(const kernels::ConvShape& s, Gemm gemm, bool is_bfloat16) {
  const at::NoGradGuard no_grad;
  const auto dtype = is_bfloat16 ? at::kBFloat16 : at::kFloat;
  const bool is_matrix = is_matrix_product(s);
  // A generator of its own: timing must not disturb the numbers that training draws.
  const auto draw = [&, generator = at::detail::createCPUGenerator(1)](std::vector<int64_t> sizes) {
    const at::Tensor values = at::randn(sizes, generator, at::kFloat).to(dtype);
    return is_matrix ? values : values.contiguous(at::MemoryFormat::ChannelsLast);
  };
  const int64_t rows = s.batch * s.in_height;
  const Operands operands =
      is_matrix ? Operands{draw({rows, s.in_channels}), draw({s.out_channels, s.in_channels}),
                           draw({rows, s.out_channels})}
                : Operands{draw({s.batch, s.in_channels, s.in_height, s.in_width}),
                           draw({s.out_channels, s.in_channels / s.groups, s.kernel_height, s.kernel_width}),
                           draw({s.batch, s.out_channels, s.out_height(), s.out_width()})};
  std::function<void()> work = is_matrix ? matrix_product(operands, gemm) : convolution(s, operands, gemm);
  return [work = std::move(work)] {
    const at::NoGradGuard guard;
    work();
  };
}

}  // namespace bitdial::cost
