#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "bitdial/kernels/conv2d.h"

/// Random tensors of the passes around GEMMs.
namespace bitdial::kernels {

inline float widen(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
inline uint16_t narrow(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

/// A tensor of either type, and its values as float32.
struct Data {
  OutputType type;
  std::vector<float> values;
  std::vector<uint16_t> halves;

  Data(OutputType which, int64_t count, std::mt19937& random, float spread) : type(which) {
    std::normal_distribution<float> normal(0.0F, spread);
    values.resize(static_cast<size_t>(count));
    for (float& x : values) x = type == OutputType::kFloat32 ? normal(random) : widen(narrow(normal(random)));
    for (const float x : values) halves.push_back(narrow(x));
  }
  void* data() { return type == OutputType::kFloat32 ? static_cast<void*>(values.data()) : halves.data(); }
  float at(int64_t i) const {
    const auto k = static_cast<size_t>(i);
    return type == OutputType::kFloat32 ? values[k] : widen(halves[k]);
  }
  bool operator==(const Data& other) const {
    return type == OutputType::kFloat32
               ? std::memcmp(values.data(), other.values.data(), values.size() * sizeof(float)) == 0
               : halves == other.halves;
  }
};

inline std::vector<float> random_row(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0F, 1.0F);
  std::vector<float> row(static_cast<size_t>(count));
  for (float& x : row) x = normal(random);
  return row;
}

}  // namespace bitdial::kernels
