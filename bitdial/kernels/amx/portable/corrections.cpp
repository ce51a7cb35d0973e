#include "bitdial/kernels/amx/portable/corrections.h"

#include <algorithm>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/code_sums.h"
#include "bitdial/kernels/conv2d_kernels.h"

namespace bitdial::kernels::amx {

bool needs_corrections(const Operand& a, const Operand& b) {
  const auto shifted = [](const QuantParams& p) { return p.zero_code != 0 || p.offset != 0.0F; };
  return std::ranges::any_of(a.params, shifted) || std::ranges::any_of(b.params, shifted);
}

Corrections::Corrections(const Product& product)
    : rows_(classify(product.rows, product.out_height)),
      cols_(classify(product.cols, product.out_width)),
      depth_(product.depth),
      columns_padded_((product.columns + 31) / 32 * 32),
      in_height_(product.in_height),
      in_width_(product.in_width) {
  sum_columns(product);
  sum_inputs(product);
}

Corrections::BorderClasses Corrections::classify(const std::vector<Axis>& axes, int64_t out_size) {
  BorderClasses classes;
  classes.class_of.resize(static_cast<size_t>(out_size));
  classes.inputs.resize(static_cast<size_t>(out_size));
  for (const Axis& axis : axes) {
    for (int64_t j = 0; j < axis.positions; ++j) {
      const auto out = static_cast<size_t>(axis.out_first + j * axis.out_step);
      std::vector<int64_t> kernels;
      for (const AxisTap& tap : axis.taps) {
        if (!axis.inside(axis.input(j, tap))) continue;
        kernels.push_back(tap.kernel);
        classes.inputs[out].push_back(axis.input(j, tap));
      }
      auto known = std::ranges::find(classes.kernels, kernels);
      if (known == classes.kernels.end()) known = classes.kernels.insert(known, std::move(kernels));
      classes.class_of[out] = known - classes.kernels.begin();
    }
  }
  return classes;
}

void Corrections::sum_columns(const Product& p) {
  int64_t kernel_height = 0;
  for (const Axis& axis : p.rows) {
    for (const AxisTap& tap : axis.taps) kernel_height = std::max(kernel_height, tap.kernel + 1);
  }
  std::vector<int64_t> by_tap(static_cast<size_t>(kernel_height * p.kernel_width * columns_padded_));
  for (int64_t r = 0; r < kernel_height; ++r) {
    for (int64_t s = 0; s < p.kernel_width; ++s) {
      int64_t* sums = by_tap.data() + (r * p.kernel_width + s) * columns_padded_;
      for (int64_t column = 0; column < p.columns; ++column) {
        if (p.b_depth == 1) {
          sums[column] = sum_codes(p.b, p.b_index(column, r, s), p.depth);
          continue;
        }
        for (int64_t d = 0; d < p.depth; ++d)
          sums[column] += code_at(p.b, p.b_index(column, r, s) + d * p.b_depth);
      }
    }
  }
  column_sums_.assign(rows_.kernels.size() * cols_.kernels.size() * static_cast<size_t>(columns_padded_), 0);
  int64_t* sums = column_sums_.data();
  for (const auto& row_taps : rows_.kernels) {
    for (const auto& column_taps : cols_.kernels) {
      for (const int64_t r : row_taps) {
        for (const int64_t s : column_taps) {
          const int64_t* tap = by_tap.data() + (r * p.kernel_width + s) * columns_padded_;
          for (int64_t i = 0; i < columns_padded_; ++i) sums[i] += tap[i];
        }
      }
      sums += columns_padded_;
    }
  }
}

void Corrections::sum_inputs(const Product& p) {
  const int64_t pixels = p.in_height * p.in_width;
  input_sums_.resize(static_cast<size_t>(p.batch * pixels));
  parallel_for(p.batch * pixels, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      input_sums_[static_cast<size_t>(i)] = sum_codes(p.a, i * p.in_channels + p.first_depth, p.depth);
    }
  });
}

void Corrections::fill(int64_t n, int64_t h, int64_t w, OutputRow& row) const {
  const auto& heights = rows_.inputs[static_cast<size_t>(h)];
  const auto& widths = cols_.inputs[static_cast<size_t>(w)];
  row.count = static_cast<int64_t>(heights.size() * widths.size()) * depth_;
  row.code_sum = 0;
  for (const int64_t ih : heights) {
    const int64_t* sums = input_sums_.data() + (n * in_height_ + ih) * in_width_;
    for (const int64_t iw : widths) row.code_sum += sums[iw];
  }
  const int64_t border = rows_.class_of[static_cast<size_t>(h)] * static_cast<int64_t>(cols_.kernels.size()) +
                         cols_.class_of[static_cast<size_t>(w)];
  row.column_sums = column_sums_.data() + border * columns_padded_;
}

}  // namespace bitdial::kernels::amx
