// What a session says of its network's precision: word lengths and the arithmetic of GEMMs.
#include "bitdial/core/error.h"
#include "bitdial/nn/session_core.h"

namespace bitdial::nn {

std::string_view arithmetic_name(const GemmRecord& gemm, Arithmetic arithmetic) {
  if (gemm.is_bfloat16) return "bfloat16";
  const bool is_float = gemm.bits_a >= 32 && gemm.bits_b >= 32;
  if (arithmetic == Arithmetic::kSimulated && !is_float) return "simulated";
  if (!gemm.is_integer) return "float32";
  if (std::max(gemm.bits_a, gemm.bits_b) <= 8) return "int8";
  return std::min(gemm.bits_a, gemm.bits_b) <= 8 ? "int8xint16" : "int16";
}

std::vector<LayerBits> SessionCore::layer_bits() const {
  if (!policy_->quantizes()) {
    const bool is_bfloat16 = policy_->float_arithmetic() == FloatArithmetic::kBFloat16Autocast;
    const double bits = is_bfloat16 ? 16.0 : 32.0;
    return std::vector<LayerBits>(layers_.size(), LayerBits::shared(bits, bits));
  }
  const auto bits_of = [](const LayerBinding& layer, TensorRole role, TensorRole other) {
    const TensorRecord& record = layer.record(layer.record(role).is_planned ? role : other);
    return record.is_planned ? static_cast<double>(record.format.word_length) : 32.0;
  };
  std::vector<LayerBits> all;
  for (const auto& layer : bindings_) {
    LayerBits bits;
    bits.w = bits_of(*layer, TensorRole::kWeight, TensorRole::kWeight);
    bits.x = bits_of(*layer, TensorRole::kInput, TensorRole::kInputWtgrad);
    bits.x_wtgrad = bits_of(*layer, TensorRole::kInputWtgrad, TensorRole::kInput);
    bits.dy_bprop = bits_of(*layer, TensorRole::kGradBprop, TensorRole::kGradWtgrad);
    bits.dy_wtgrad = bits_of(*layer, TensorRole::kGradWtgrad, TensorRole::kGradBprop);
    all.push_back(bits);
  }
  return all;
}

std::vector<LayerArithmetic> SessionCore::gemm_arithmetic() const {
  std::vector<LayerArithmetic> all(layers_.size());
  for (size_t l = 0; l < layers_.size(); ++l) {
    for (const Gemm gemm : {Gemm::kFprop, Gemm::kBprop, Gemm::kWtgrad}) {
      std::string_view& name = all[l][static_cast<size_t>(gemm)];
      if (!policy_->quantizes()) {
        const bool is_bfloat16 = policy_->float_arithmetic() == FloatArithmetic::kBFloat16Autocast;
        if (gemm != Gemm::kBprop || l > 0) name = is_bfloat16 ? "bfloat16" : "float32";
      } else if (bindings_[l]->gemm(gemm).is_known) {
        name = arithmetic_name(bindings_[l]->gemm(gemm), options_.arithmetic);
      }
    }
  }
  return all;
}

}  // namespace bitdial::nn
