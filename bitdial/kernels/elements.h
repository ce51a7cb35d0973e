#pragma once

#include <cstddef>
#include <cstdint>

#include "bitdial/kernels/conv2d.h"

/// Places in tensors of float32 or bfloat16. Not for kernels, whose files are compiled for other CPUs.
namespace bitdial::kernels {

inline size_t type_index(OutputType type) { return type == OutputType::kFloat32 ? 0 : 1; }
inline int64_t bytes_of(OutputType type) { return type == OutputType::kFloat32 ? 4 : 2; }

/// Null stays null.
inline const char* element_at(const void* data, OutputType type, int64_t i) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + i * bytes_of(type);
}
inline char* element_at(void* data, OutputType type, int64_t i) {
  return data == nullptr ? nullptr : static_cast<char*>(data) + i * bytes_of(type);
}

}  // namespace bitdial::kernels
