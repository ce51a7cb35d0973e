#pragma once

#include "bitdial/kernels/vector/gather.h"

// How a gathering convolution is cut up: which taps, scales and blocks.
namespace bitdial::kernels::vector {

template <class Isa>
void Gather<Isa>::plan() {
  quads_ = (p_.channels + 3) / 4;
  tap_rows_ = static_cast<int64_t>(p_.rows.order.size());
  tap_cols_ = static_cast<int64_t>(p_.cols.order.size());
  prepare_params();
  pad_columns();
  find_segments();
}

template <class Isa>
void Gather<Isa>::pad_columns() {
  constexpr double kMostWaste = 1.1;
  const int run = Isa::kRun[panels_.span(0).lanes / Isa::kWidth];
  const int64_t zero = input_split_.zero + p_.input.params[0].zero_code;
  const bool is_direct = !needs_sums_ && (joined_ || input_split_.count * weight_split_.count == 1);
  if (run == 1 || !is_direct || zero < 0 || zero >> (8 * input_split_.count) != 0) return;
  PaddedAxis padded = pad(p_.cols);
  if (padded.axis.in == p_.cols.in || padded.waste > kMostWaste) return;
  for (size_t i = 0; i < padded.axis.classes.size(); ++i) {
    if (std::ssize(padded.axis.members[i]) % run != 0 || step_between(padded.axis, i) == 0) return;
  }
  cols_ = std::move(padded.axis);
  padding_ = padded.before;
  for (int d = 0; d < input_split_.count; ++d) padding_digits_[d] = static_cast<uint8_t>(zero >> (8 * d));
}

template <class Isa>
int64_t Gather<Isa>::step_between(const TapAxis& cols, size_t cls) {
  const std::vector<int32_t>& members = cols.members[cls];
  const auto input = [&](size_t i) { return cols.spans[static_cast<size_t>(members[i])].input; };
  if (members.size() < 2) return 0;
  const int64_t step = input(1) - input(0);
  for (size_t i = 2; i < members.size(); ++i) {
    if (input(i) - input(i - 1) != step) return 0;
  }
  return step;
}

template <class Isa>
void Gather<Isa>::find_segments() {
  col_classes_ = static_cast<int64_t>(cols_.classes.size());
  class_count_ = static_cast<int64_t>(p_.rows.classes.size()) * col_classes_;
  classes_ = workspace_.take<Class>(class_count_);
  set_input_strides();
  for (int64_t i = 0; i < class_count_; ++i) {
    const TapSpan& rows = p_.rows.classes[static_cast<size_t>(i / col_classes_)];
    const TapSpan& cols = cols_.classes[static_cast<size_t>(i % col_classes_)];
    classes_[i] = segments_of(rows, cols);
    const auto of_cols = static_cast<size_t>(i % col_classes_);
    classes_[i].row_pixels = std::ssize(cols_.members[of_cols]);
    classes_[i].run_bytes = step_between(cols_, of_cols) * pixel_bytes_;
  }
}

template <class Isa>
typename Gather<Isa>::Class Gather<Isa>::segments_of(const TapSpan& rows, const TapSpan& cols) {
  constexpr int64_t kLongest = kExactProducts / 4;
  const bool adjacent = p_.cols.dilation == 1 && pixel_bytes_ == 4 * quads_;
  const int64_t taps = cols.last - cols.first;
  const int64_t runs = adjacent ? std::min<int64_t>(taps, 1) : taps;
  const int64_t quads = adjacent ? taps * quads_ : quads_;
  const int64_t pieces = (quads + kLongest - 1) / kLongest;
  auto* segments = workspace_.take<Segment>(std::max<int64_t>(1, (rows.last - rows.first) * runs * pieces));
  int64_t count = 0;
  for (int64_t r = rows.first; r < rows.last; ++r) {
    for (int64_t run = 0; run < runs; ++run) {
      Segment segment{
          (r - rows.first) * p_.rows.dilation * row_bytes_ + run * p_.cols.dilation * pixel_bytes_,
          (r * tap_cols_ + cols.first + run) * quads_, 0};
      for (int64_t left = quads; left > 0; left -= segment.quads) {
        segment.quads = std::min(left, kLongest);
        segments[count++] = segment;
        segment.a += 4 * segment.quads;
        segment.b += segment.quads;
      }
    }
  }
  return {segments, count, (rows.last - rows.first) * taps * p_.channels, 0, 0};
}

template <class Isa>
void Gather<Isa>::set_input_strides() {
  in_place_ = p_.input.type == CodeType::kU8 && p_.channels % 4 == 0 && cols_.in == p_.cols.in;
  pixel_bytes_ = in_place_ ? p_.column_stride : 4 * quads_;
  row_bytes_ = in_place_ ? p_.row_stride : pixel_bytes_ * cols_.in;
}

template <class Isa>
void Gather<Isa>::prepare_params() {
  scales_ = workspace_.take<float>(padded_columns_);
  weight_zeros_ = workspace_.take<double>(padded_columns_);
  weight_params_ = workspace_.take<QuantParams>(padded_columns_);
  bias_ = p_.bias ? workspace_.take<float>(padded_columns_) : nullptr;
  bool offsets = false;
  bool uniform = true;
  for (int64_t k = 0; k < padded_columns_; ++k) {
    const QuantParams params = k < p_.columns ? p_.weight_params(k) : QuantParams{};
    weight_params_[k] = params;
    scales_[k] = p_.input.params[0].scale * params.scale;
    weight_zeros_[k] = k < p_.columns ? static_cast<double>(weight_split_.zero + params.zero_code) : 0.0;
    uniform &= k >= p_.columns || weight_zeros_[k] == weight_zeros_[0];
    offsets |= params.offset != 0.0F;
    if (bias_) bias_[k] = k < p_.columns ? p_.bias[k] : 0.0F;
  }
  for (const QuantParams& params : p_.input.params) offsets |= params.offset != 0.0F;
  fast_ = uniform && !offsets && p_.input.params.size() == 1 && zeros_fit();
  needs_sums_ = !fast_ || weight_zero_[0] != 0 || weight_zero_[1] != 0;
  joined_ = fast_ && !needs_sums_ && digits_join();
  wide_ = tap_rows_ * tap_cols_ * p_.channels > (int64_t{1} << 18);
}

template <class Isa>
bool Gather<Isa>::zeros_fit() {
  const int64_t zero_a = input_split_.zero + p_.input.params[0].zero_code;
  const auto zero_b = static_cast<int64_t>(weight_zeros_[0]);
  input_zero_[1] = input_split_.count == 2 ? zero_a >> 8 : 0;
  input_zero_[0] = zero_a - 256 * input_zero_[1];
  weight_zero_[1] = weight_split_.count == 2 ? (zero_b + 128) >> 8 : 0;
  weight_zero_[0] = zero_b - 256 * weight_zero_[1];
  int64_t largest_a = 0;
  int64_t largest_b = 0;
  for (const int64_t zero : input_zero_) largest_a = std::max({largest_a, zero, 255 - zero});
  for (const int64_t zero : weight_zero_) largest_b = std::max({largest_b, 128 + zero, 127 - zero});
  constexpr int64_t kLargest = (int64_t{1} << 31) - 1;
  const int64_t products = tap_rows_ * tap_cols_ * p_.channels;
  return largest_a < 1 << 16 && largest_b < 1 << 16 && products <= kLargest / (largest_a * largest_b);
}

template <class Isa>
bool Gather<Isa>::digits_join() const {
  if (input_split_.count != 2 || weight_split_.count != 1) return false;
  const int64_t zero_a = input_split_.zero + p_.input.params[0].zero_code;
  const auto zero_b = static_cast<int64_t>(weight_zeros_[0]);
  const int64_t largest_a = std::max(zero_a, 65535 - zero_a);
  const int64_t largest_b = std::max(128 + zero_b, 127 - zero_b);
  const int64_t products = tap_rows_ * tap_cols_ * p_.channels;
  return products <= ((int64_t{1} << 31) - 1) / (largest_a * largest_b);
}

template <class Isa>
void Gather<Isa>::sum_classes() {
  const int64_t size = class_count_ * padded_columns_;
  class_sums_ = workspace_.take<double>(weight_split_.count * size);
  starts_ = workspace_.take<int32_t>(input_split_.count * weight_split_.count * size);
  for (int64_t i = 0; i < class_count_; ++i) {
    const TapSpan& rows = p_.rows.classes[static_cast<size_t>(i / col_classes_)];
    const TapSpan& cols = cols_.classes[static_cast<size_t>(i % col_classes_)];
    for (int b = 0; b < weight_split_.count; ++b) {
      double* sums = class_sums_ + b * size + i * padded_columns_;
      std::fill_n(sums, padded_columns_, 0.0);
      for (int64_t r = rows.first; r < rows.last; ++r) {
        for (int64_t q = cols.first; q < cols.last; ++q) {
          const int32_t* tap = panels_.tap_sums(b, r, q);
          for (int64_t k = 0; k < padded_columns_; ++k) sums[k] += tap[k];
        }
      }
      for (int a = 0; fast_ && a < input_split_.count; ++a) start_sums(i, a, b, sums);
    }
  }
}

template <class Isa>
void Gather<Isa>::prepare_offset_terms() {
  if (fast_ || wide_ || p_.input.params.size() != 1) return;
  const QuantParams& pa = p_.input.params[0];
  for (int64_t k = 0; pa.offset == 0.0F && k < p_.columns; ++k) {
    if (weight_params_[k].offset == 0.0F) return;
  }
  const int64_t size = class_count_ * padded_columns_;
  terms_ = {.scales = workspace_.take<double>(padded_columns_),
            .weight_offsets = workspace_.take<double>(padded_columns_),
            .own_b = workspace_.take<double>(size),
            .by_b = workspace_.take<double>(size),
            .constants = workspace_.take<double>(size)};
  const double scale_a = pa.scale, offset_a = pa.offset;
  for (int64_t k = 0; k < padded_columns_; ++k) {
    terms_.scales[k] = scale_a * static_cast<double>(weight_params_[k].scale);
    terms_.weight_offsets[k] = scale_a * static_cast<double>(weight_params_[k].offset);
  }
  const double high = weight_split_.count == 2 ? 256.0 : 0.0;
  for (int64_t i = 0; i < class_count_; ++i) {
    const auto count = static_cast<double>(classes_[i].products);
    for (int64_t k = 0; k < padded_columns_; ++k) {
      const int64_t at = i * padded_columns_ + k;
      const double sum = class_sums_[at] + high * class_sums_[(weight_split_.count - 1) * size + at];
      terms_.own_b[at] = sum - count * weight_zeros_[k];
      terms_.by_b[at] = offset_a * static_cast<double>(weight_params_[k].scale) * terms_.own_b[at];
      terms_.constants[at] = count * offset_a * static_cast<double>(weight_params_[k].offset);
    }
  }
}

template <class Isa>
void Gather<Isa>::start_sums(int64_t cls, int a, int b, const double* weight_sums) {
  int32_t* starts = starts_at(cls, a, b);
  const int64_t constant = classes_[cls].products * input_zero_[a] * weight_zero_[b];
  for (int64_t k = 0; k < padded_columns_; ++k) {
    starts[k] = static_cast<int32_t>(constant - input_zero_[a] * static_cast<int64_t>(weight_sums[k]));
  }
}

template <class Isa>
void Gather<Isa>::partition() {
  constexpr int64_t kBlockBytes = 1 << 18;  // of input digits: a panel fits beside them in a 1 MiB L2 cache
  constexpr int64_t kBlockPixels = 4096;    // their list stays in the cache as well
  const int64_t row = row_bytes_ * input_split_.count;
  const int64_t threads = num_threads();
  const int64_t image = std::max<int64_t>(1, row * p_.rows.in);
  const int64_t pixels = p_.rows.out * p_.cols.out;
  images_ = std::clamp<int64_t>(std::min(kBlockBytes / image, kBlockPixels / pixels), 1, p_.batch);
  block_rows_ = p_.rows.out;
  if (image > kBlockBytes) {
    const int64_t rows_in = std::max<int64_t>(1, kBlockBytes / row);
    block_rows_ = std::max<int64_t>(1, rows_in * p_.rows.out / p_.rows.in);
  }
  // Threads need several tasks each, to end together. The number of blocks depends on the problem alone, as
  // the sums of channels are added up by block; panels are shared out by what is there. A block is to fill
  // the tiles of every border class, and sums over its pixels are taken once per split.
  constexpr int64_t kLeastPixels = 2048, kFewestBlocks = 4, kMostBlocks = 32, kTasks = 8;
  const int64_t wanted_blocks = std::clamp(p_.batch * pixels / kLeastPixels, kFewestBlocks, kMostBlocks);
  images_ = std::min(images_, std::max<int64_t>(1, p_.batch / wanted_blocks));
  row_blocks_ = (p_.rows.out + block_rows_ - 1) / block_rows_;
  blocks_ = (p_.batch + images_ - 1) / images_ * row_blocks_;
  const int64_t wanted_tasks = threads > 1 && !needs_sums_ ? kTasks * threads : threads;
  splits_ = std::clamp<int64_t>((wanted_tasks + blocks_ - 1) / blocks_, 1, panel_count_);
}

}  // namespace bitdial::kernels::vector
