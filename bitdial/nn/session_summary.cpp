// What a session says of its network's precision: word lengths and the arithmetic of GEMMs.
#include <algorithm>
#include <array>
#include <string>

#include "bitdial/nn/session_core.h"

namespace bitdial::nn {

namespace {

constexpr std::array kArithmeticNames{"int8", "int8xint16", "int16", "bfloat16", "float32", "simulated"};

size_t arithmetic_index(const GemmRecord& gemm, Arithmetic arithmetic) {
  if (gemm.is_bfloat16) return 3;
  const bool is_float = gemm.bits_a >= 32 && gemm.bits_b >= 32;
  if (arithmetic == Arithmetic::kSimulated && !is_float) return 5;
  if (!gemm.is_integer) return 4;
  if (std::max(gemm.bits_a, gemm.bits_b) <= 8) return 0;
  return std::min(gemm.bits_a, gemm.bits_b) <= 8 ? 1 : 2;
}

/// "int8,int8xint16" for a set of arithmetics, one bit each.
std::string_view names_of(unsigned set) {
  static const auto all = [] {
    std::array<std::string, 1U << kArithmeticNames.size()> names;
    for (size_t one = 0; one < names.size(); ++one) {
      for (size_t i = 0; i < kArithmeticNames.size(); ++i) {
        if ((one >> i & 1U) == 0) continue;
        if (!names[one].empty()) names[one].push_back(',');
        names[one].append(kArithmeticNames[i]);
      }
    }
    return names;
  }();
  return all.at(set);
}

}  // namespace

void count_arithmetic(GemmRecord& gemm, Arithmetic arithmetic) {
  gemm.ran |= 1U << arithmetic_index(gemm, arithmetic);
}

std::string_view arithmetic_name(const GemmRecord& gemm, Arithmetic arithmetic) {
  return kArithmeticNames[arithmetic_index(gemm, arithmetic)];
}

std::vector<LayerBits> SessionCore::layer_bits() const {
  if (!policy_->quantizes()) {
    const bool is_bfloat16 = policy_->float_arithmetic() == FloatArithmetic::kBFloat16Autocast;
    const double bits = is_bfloat16 ? 16.0 : 32.0;
    return std::vector<LayerBits>(layers_.size(), LayerBits::shared(bits, bits));
  }
  const auto bits_of = [this](size_t l, TensorRole role, TensorRole other) {
    const auto mean = policy_->mean_bits({.layer = static_cast<int>(l), .role = role});
    if (mean) return *mean;
    const TensorRecord& record = bindings_[l]->record(bindings_[l]->record(role).is_planned ? role : other);
    return record.is_planned ? static_cast<double>(record.format.word_length) : 32.0;
  };
  std::vector<LayerBits> all;
  for (size_t l = 0; l < bindings_.size(); ++l) {
    LayerBits bits;
    bits.w = bits_of(l, TensorRole::kWeight, TensorRole::kWeight);
    bits.x = bits_of(l, TensorRole::kInput, TensorRole::kInputWtgrad);
    bits.x_wtgrad = bits_of(l, TensorRole::kInputWtgrad, TensorRole::kInput);
    bits.dy_bprop = bits_of(l, TensorRole::kGradBprop, TensorRole::kGradWtgrad);
    bits.dy_wtgrad = bits_of(l, TensorRole::kGradWtgrad, TensorRole::kGradBprop);
    bits.covariance = policy_->bits_covariance(static_cast<int>(l));
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
        const GemmRecord& record = bindings_[l]->gemm(gemm);
        name = record.ran != 0 ? names_of(record.ran) : arithmetic_name(record, options_.arithmetic);
      }
    }
  }
  return all;
}

}  // namespace bitdial::nn
