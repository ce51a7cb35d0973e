#pragma once

#include <cstdint>
#include <vector>

#include "bitdial/kernels/amx/digits.h"
#include "bitdial/kernels/axis.h"

/// One group of a forward convolution or data gradient: out[n, oh, ow, column] = sum over taps and `depth` of
/// a[n, h, w, depth] * b[column, tap, depth].
namespace bitdial::kernels::amx {

struct Product {
  int64_t batch = 1;
  int64_t in_height = 1, in_width = 1, out_height = 1, out_width = 1;
  int64_t depth = 1, columns = 1;             ///< of the group
  int64_t in_channels = 1, out_channels = 1;  ///< of the tensors: pixel strides in codes
  int64_t first_depth = 0, first_column = 0;  ///< the group's slice of them
  std::vector<Axis> rows, cols;               ///< by residue (one each in the forward direction)

  Operand a, b;
  int64_t kernel_width = 1;
  int64_t b_first = 0, b_column = 0, b_tap = 0,
          b_depth = 0;  ///< strides of b in codes; tap = r * kernel_width + s

  const float* bias = nullptr;
  Output out;

  int64_t a_index(int64_t n, int64_t h, int64_t w) const {
    return ((n * in_height + h) * in_width + w) * in_channels + first_depth;
  }
  int64_t out_index(int64_t n, int64_t h, int64_t w) const {
    return ((n * out_height + h) * out_width + w) * out_channels + first_column;
  }
  int64_t b_index(int64_t column, int64_t r, int64_t s) const {
    return b_first + column * b_column + (r * kernel_width + s) * b_tap;
  }
};

Product forward_product(const ConvShape& shape, int64_t group, const Operand& x, const Operand& w,
                        const float* bias, const Output& y);
Product backward_data_product(const ConvShape& shape, int64_t group, const Operand& dy, const Operand& w,
                              const Output& dx);

/// The parameters of one index of the kept axis.
inline const QuantParams& params_of(const Operand& operand, int64_t index) {
  return operand.params[operand.params.size() == 1 ? 0 : static_cast<size_t>(index)];
}

inline const uint8_t* code_address(const Operand& operand, int64_t index) {
  const int64_t size = operand.type == CodeType::kS8 || operand.type == CodeType::kU8 ? 1 : 2;
  return static_cast<const uint8_t*>(operand.codes) + index * size;
}

}  // namespace bitdial::kernels::amx
