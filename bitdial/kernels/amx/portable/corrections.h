#pragma once

#include <cstdint>
#include <vector>

#include "bitdial/kernels/amx/block.h"
#include "bitdial/kernels/amx/portable/product.h"

/// What zero codes and real-valued offsets need beside the products: for every output the sums of the codes
/// of each operand over its valid taps, and their number.
namespace bitdial::kernels::amx {

/// Whether any zero code or offset of the operands is not 0.
bool needs_corrections(const Operand& a, const Operand& b);

class Corrections {
 public:
  explicit Corrections(const Product& product);

  /// Fills count, code_sum and column_sums (of the group's column 0) of output pixel (h, w) of image n.
  void fill(int64_t n, int64_t h, int64_t w, OutputRow& row) const;

 private:
  /// The taps of one axis that lie inside the image, per output coordinate; coordinates with equal taps share
  /// one.
  struct BorderClasses {
    std::vector<int64_t> class_of;              // by output coordinate
    std::vector<std::vector<int64_t>> kernels;  // by class
    std::vector<std::vector<int64_t>> inputs;   // by output coordinate: input coordinates of those taps
  };
  static BorderClasses classify(const std::vector<Axis>& axes, int64_t out_size);
  void sum_columns(const Product& product);
  void sum_inputs(const Product& product);

  BorderClasses rows_, cols_;
  int64_t depth_, columns_padded_, in_height_, in_width_;
  std::vector<int64_t> column_sums_;  // [row class][column class][columns_padded_]
  std::vector<int64_t> input_sums_;   // [n][h][w] sum over depth
};

}  // namespace bitdial::kernels::amx
