#include "bitdial/core/policy.h"

#include <functional>
#include <numeric>

#include "bitdial/core/error.h"

namespace bitdial {

std::string_view to_string(TensorRole role) {
  switch (role) {
    case TensorRole::kWeight:
      return "w";
    case TensorRole::kInput:
      return "x";
    case TensorRole::kInputWtgrad:
      return "x_wtgrad";
    case TensorRole::kGradBprop:
      return "dy_bprop";
    case TensorRole::kGradWtgrad:
      return "dy_wtgrad";
    case TensorRole::kOutput:
      return "y";
    case TensorRole::kGradInput:
      return "dx";
  }
  fail("policy", "unknown tensor role {}", static_cast<int>(role));
}

std::vector<Gemm> readers(TensorRole role, bool is_first_layer) {
  switch (role) {
    case TensorRole::kWeight:
      return is_first_layer ? std::vector{Gemm::kFprop} : std::vector{Gemm::kFprop, Gemm::kBprop};
    case TensorRole::kInput:
      return {Gemm::kFprop};
    case TensorRole::kGradBprop:
      return {Gemm::kBprop};
    case TensorRole::kInputWtgrad:
    case TensorRole::kGradWtgrad:
      return {Gemm::kWtgrad};
    case TensorRole::kOutput:
    case TensorRole::kGradInput:
      return {};
  }
  fail("policy", "unknown tensor role {}", static_cast<int>(role));
}

std::string_view to_string(Gemm gemm) {
  return gemm == Gemm::kFprop ? "FPROP" : gemm == Gemm::kBprop ? "BPROP" : "WTGRAD";
}

std::string_view to_string(GemmArithmetic arithmetic) {
  switch (arithmetic) {
    case GemmArithmetic::kInt8:
      return "int8";
    case GemmArithmetic::kInt8x16:
      return "int8x16";
    case GemmArithmetic::kInt16x8:
      return "int16x8";
    case GemmArithmetic::kInt16:
      return "int16";
    case GemmArithmetic::kBFloat16:
      return "bfloat16";
    case GemmArithmetic::kFloat32:
      return "float32";
  }
  fail("policy", "unknown arithmetic {}", static_cast<int>(arithmetic));
}

int64_t ParameterInfo::elements() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

std::string_view to_string(LayerKind kind) {
  switch (kind) {
    case LayerKind::kConv2d:
      return "conv2d";
    case LayerKind::kDepthwiseConv2d:
      return "depthwise_conv2d";
    case LayerKind::kLinear:
      return "linear";
  }
  fail("policy", "unknown layer kind {}", static_cast<int>(kind));
}

}  // namespace bitdial
