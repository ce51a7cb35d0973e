#include "bitdial/kernels/conv2d.h"

#include <array>
#include <utility>

#include "bitdial/core/error.h"
#include "bitdial/kernels/amx/amx.h"
#include "bitdial/kernels/channel_sums.h"
#include "bitdial/kernels/conv2d_kernels.h"
#include "bitdial/kernels/depthwise.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/output_pass.h"
#include "bitdial/kernels/vector/conv2d.h"

namespace bitdial::kernels {
namespace {

template <const vector::Engine* const& kEngine>
constexpr Conv2dKernels kVectorKernels = {
    .forward = [](const ConvShape& shape, const Operand& x, const Operand& w, const float* bias,
                  const Output& y) { vector::forward(*kEngine, shape, x, w, bias, y); },
    .backward_data = [](const ConvShape& shape, const Operand& dy, const Operand& w,
                        const Output& dx) { vector::backward_data(*kEngine, shape, dy, w, dx); },
    .backward_weight = [](const ConvShape& shape, const Operand& x, const Operand& dy,
                          float* dw) { vector::backward_weight(*kEngine, shape, x, dy, dw); },
    .sums_channels = true};

/// Groups so narrow that tiles would be mostly padding.
bool too_narrow_for_tiles(const ConvShape& s) { return s.groups > 1 && s.in_channels / s.groups < 32; }

const Conv2dKernels& kernels_of(Isa isa, const ConvShape& shape) {
  if (depthwise::supports(shape, isa)) return depthwise::kConv2d;
  switch (isa) {
    case Isa::kScalar:
      return scalar::kConv2d;
    case Isa::kAvx2:
      return kVectorKernels<avx2::kEngine>;
    case Isa::kAvxVnni:
      return kVectorKernels<avxvnni::kEngine>;
    case Isa::kAvx512Vnni:
      return kVectorKernels<avx512vnni::kEngine>;
    case Isa::kAmx:
      return too_narrow_for_tiles(shape) ? kVectorKernels<avx512vnni::kEngine> : amx::kConv2d;
  }
  return scalar::kConv2d;
}

void check_params(const char* operation, const char* name, const Operand& operand, int64_t axis) {
  require(operand.codes != nullptr, operation, "{} has no data", name);
  const auto count = static_cast<int64_t>(operand.params.size());
  require(count == 1 || count == axis, operation, "{} has {} scales, expected {}", name, count,
          axis == 1 ? "1" : fmt::format("1 or {}", axis));
}

void check_output(const char* operation, const void* data) {
  require(data != nullptr, operation, "no output");
}

}  // namespace

const vector::Engine* conv2d_engine(Isa isa, const ConvShape& shape) {
  const Conv2dKernels* kernels = &kernels_of(isa, shape);
  if (kernels == &kVectorKernels<avx2::kEngine>) return avx2::kEngine;
  if (kernels == &kVectorKernels<avxvnni::kEngine>) return avxvnni::kEngine;
  if (kernels == &kVectorKernels<avx512vnni::kEngine>) return avx512vnni::kEngine;
  return nullptr;
}

std::string_view to_string(CodeType type) {
  switch (type) {
    case CodeType::kS8:
      return "s8";
    case CodeType::kU8:
      return "u8";
    case CodeType::kS16:
      return "s16";
    case CodeType::kU16:
      return "u16";
  }
  return "unknown";
}

int64_t code_at(const Operand& operand, int64_t index) {
  switch (operand.type) {
    case CodeType::kS8:
      return static_cast<const int8_t*>(operand.codes)[index];
    case CodeType::kU8:
      return static_cast<const uint8_t*>(operand.codes)[index];
    case CodeType::kS16:
      return static_cast<const int16_t*>(operand.codes)[index];
    case CodeType::kU16:
      return static_cast<const uint16_t*>(operand.codes)[index];
  }
  return 0;
}

void check(const ConvShape& s) {
  const std::array<std::pair<const char*, int64_t>, 12> positive = {{{"batch", s.batch},
                                                                     {"in_channels", s.in_channels},
                                                                     {"in_height", s.in_height},
                                                                     {"in_width", s.in_width},
                                                                     {"out_channels", s.out_channels},
                                                                     {"kernel_height", s.kernel_height},
                                                                     {"kernel_width", s.kernel_width},
                                                                     {"stride_height", s.stride_height},
                                                                     {"stride_width", s.stride_width},
                                                                     {"dilation_height", s.dilation_height},
                                                                     {"dilation_width", s.dilation_width},
                                                                     {"groups", s.groups}}};
  for (const auto& [name, value] : positive) {
    require(value > 0, "conv2d", "{} must be positive, got {}", name, value);
  }
  require(s.padding_height >= 0 && s.padding_width >= 0, "conv2d", "padding must not be negative, got {}x{}",
          s.padding_height, s.padding_width);
  require(s.in_channels % s.groups == 0, "conv2d", "{} input channels are not divisible by {} groups",
          s.in_channels, s.groups);
  require(s.out_channels % s.groups == 0, "conv2d", "{} output channels are not divisible by {} groups",
          s.out_channels, s.groups);
  const int64_t height = s.in_height + 2 * s.padding_height;
  const int64_t width = s.in_width + 2 * s.padding_width;
  const int64_t reach_height = s.dilation_height * (s.kernel_height - 1) + 1;
  const int64_t reach_width = s.dilation_width * (s.kernel_width - 1) + 1;
  require(reach_height <= height && reach_width <= width, "conv2d",
          "kernel reaches over {}x{} pixels, the padded input has {}x{}", reach_height, reach_width, height,
          width);
}

void conv2d_forward(const ConvShape& shape, const Operand& x, const Operand& w, const float* bias,
                    const Output& y) {
  check(shape);
  check_params("conv2d_forward", "input", x, shape.batch);
  check_params("conv2d_forward", "weight", w, shape.out_channels);
  check_output("conv2d_forward", y.data);
  const bool sums_complete = !y.sums || (y.sums->sum && y.sums->sum_squares);
  require(sums_complete, "conv2d_forward", "channel sums have no room for the sums");
  require(y.pass == nullptr, "conv2d_forward", "a pass over the output comes with conv2d_backward_data only");
  const Conv2dKernels& kernels = kernels_of(active_isa(), shape);
  kernels.forward(shape, x, w, bias, y);
  if (y.sums && !kernels.sums_channels) {
    sum_channels(y, shape.batch * shape.out_height() * shape.out_width(), shape.out_channels);
  }
}

void conv2d_backward_data(const ConvShape& shape, const Operand& dy, const Operand& w, const Output& dx) {
  check(shape);
  check_params("conv2d_backward_data", "output gradient", dy, shape.batch);
  check_params("conv2d_backward_data", "weight", w, 1);
  check_output("conv2d_backward_data", dx.data);
  require(dx.sums == nullptr, "conv2d_backward_data", "channel sums come with conv2d_forward only");
  kernels_of(active_isa(), shape).backward_data(shape, dy, w, dx);
  if (dx.pass && !dx.pass->has_begun()) run_whole(*dx.pass, shape.batch * shape.in_height * shape.in_width);
}

void conv2d_backward_weight(const ConvShape& shape, const Operand& x, const Operand& dy, float* dw) {
  check(shape);
  check_params("conv2d_backward_weight", "input", x, 1);
  check_params("conv2d_backward_weight", "output gradient", dy, 1);
  check_output("conv2d_backward_weight", dw);
  kernels_of(active_isa(), shape).backward_weight(shape, x, dy, dw);
}

}  // namespace bitdial::kernels
