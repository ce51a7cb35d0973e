#pragma once

#include "bitdial/kernels/vector/gather.h"

// The input of a block: digits, pixels by border class, sums under the taps.
namespace bitdial::kernels::vector {

template <class Isa>
void Gather<Isa>::list_shared_pixels() {
  if (row_blocks_ > 1) return;
  const Block block = block_at(0);
  shared_list_ = list_pixels(block, input_rows(block), workspace_);
}

template <class Isa>
BlockInput Gather<Isa>::input_rows(const Block& block) const {
  BlockInput input;
  int64_t first = p_.rows.in;
  int64_t last = 0;
  for (int64_t o = block.first_row; o < block.last_row; ++o) {
    const TapSpan& span = p_.rows.spans[static_cast<size_t>(o)];
    if (span.first == span.last) continue;
    first = std::min<int64_t>(first, span.input);
    last = std::max<int64_t>(last, span.input + (span.last - span.first - 1) * p_.rows.dilation + 1);
  }
  input.first_row = std::min(first, last);
  input.rows = last - input.first_row;
  input.row_bytes = row_bytes_;
  input.pixel_bytes = pixel_bytes_;
  input.image_bytes = in_place_ ? p_.image_stride : input.rows * row_bytes_;
  return input;
}

template <class Isa>
BlockInput Gather<Isa>::prepare_input(const Block& block, Workspace& workspace) const {
  const PhaseScope phase(Phase::kPack);
  BlockInput input = input_rows(block);
  if (in_place_) {
    input.digits = static_cast<const uint8_t*>(p_.input.codes) + p_.input_first +
                   block.first_image * p_.image_stride + input.first_row * p_.row_stride;
    return input;
  }
  const int64_t images = block.last_image - block.first_image;
  input.plane = images * input.image_bytes;
  auto* digits = workspace.take<uint8_t>(input.plane * input_split_.count);
  for (int64_t n = 0; n < images; ++n)
    convert_image(block.first_image + n, input, digits + n * input.image_bytes);
  input.digits = digits;
  return input;
}

template <class Isa>
void Gather<Isa>::convert_image(int64_t image, const BlockInput& input, uint8_t* digits) const {
  const int64_t first = p_.input_first + image * p_.image_stride + input.first_row * p_.row_stride;
  if (p_.column_stride == p_.channels && pixel_bytes_ == p_.channels && p_.row_stride == row_bytes_) {
    split_digits<Isa>(input_split_, p_.input.codes, first, input.rows * row_bytes_, digits, input.plane);
    return;
  }
  const int64_t before = padding_ * pixel_bytes_, behind = before + p_.cols.in * pixel_bytes_;
  for (int64_t h = 0; h < input.rows; ++h, digits += row_bytes_) {
    for (int d = 0; d < input_split_.count; ++d) {
      uint8_t* row = digits + d * input.plane;
      std::memset(row, padding_digits_[d], static_cast<size_t>(before));
      std::memset(row + behind, padding_digits_[d], static_cast<size_t>(row_bytes_ - behind));
    }
    convert_row(first + h * p_.row_stride, digits + before, input.plane);
  }
}

template <class Isa>
void Gather<Isa>::convert_row(int64_t first, uint8_t* digits, int64_t plane) const {
  if (p_.column_stride == p_.channels && pixel_bytes_ == p_.channels) {
    split_digits<Isa>(input_split_, p_.input.codes, first, p_.cols.in * p_.channels, digits, plane);
    return;
  }
  if (input_split_.count == 1 && p_.channels == 3) {
    convert_triples(first, digits);
    return;
  }
  for (int64_t w = 0; w < p_.cols.in; ++w, first += p_.column_stride, digits += pixel_bytes_) {
    for (int d = 0; d < input_split_.count; ++d) std::memset(digits + d * plane + pixel_bytes_ - 4, 0, 4);
    split_digits<Isa>(input_split_, p_.input.codes, first, p_.channels, digits, plane);
  }
}

template <class Isa>
void Gather<Isa>::convert_triples(int64_t first, uint8_t* digits) const {
  const uint8_t* codes = static_cast<const uint8_t*>(p_.input.codes) + first;
  const uint8_t flip = input_split_.flip[0];
  for (int64_t w = 0; w < p_.cols.in; ++w, codes += p_.column_stride, digits += 4) {
    for (int c = 0; c < 3; ++c) digits[c] = static_cast<uint8_t>(codes[c] ^ flip);
    digits[3] = 0;
  }
}

template <class Isa>
PixelList Gather<Isa>::list_pixels(const Block& block, const BlockInput& input, Workspace& workspace) const {
  const int64_t images = block.last_image - block.first_image;
  PixelList list;
  const int64_t count = images * (block.last_row - block.first_row) * p_.cols.out;
  list.pixels = workspace.take<Pixel>(count);
  list.sources = needs_sums_ ? workspace.take<int32_t>(count) : nullptr;
  list.class_ends = workspace.take<int64_t>(class_count_);
  for (int64_t i = 0; i < class_count_; ++i) {
    for (int64_t n = 0; n < images; ++n) {
      for (const int32_t o : p_.rows.members[static_cast<size_t>(i / col_classes_)]) {
        if (o < block.first_row || o >= block.last_row) continue;
        const int64_t row = p_.rows.spans[static_cast<size_t>(o)].input - input.first_row;
        list_row(i, n * input.image_bytes + row * input.row_bytes, (n * input.rows + row) * p_.cols.in,
                 (n * p_.rows.out + o) * p_.cols.out, list);
      }
    }
    list.class_ends[i] = list.count;
  }
  return list;
}

template <class Isa>
void Gather<Isa>::list_row(int64_t cls, int64_t input, int64_t source, int64_t output,
                           PixelList& list) const {
  const TapSpan* spans = cols_.spans.data();
  const bool reads = classes_[cls].segment_count > 0;
  for (const int32_t o : cols_.members[static_cast<size_t>(cls % col_classes_)]) {
    const int64_t at = reads ? input + spans[o].input * pixel_bytes_ : 0;
    if (list.sources) list.sources[list.count] = static_cast<int32_t>(reads ? source + spans[o].input : 0);
    list.pixels[list.count++] = {static_cast<int32_t>(at), static_cast<int32_t>(output + o)};
  }
}

template <class Isa>
double* Gather<Isa>::sum_pixels(const Block& block, const BlockInput& input, const PixelList& list,
                                Workspace& workspace) const {
  const int64_t images = block.last_image - block.first_image;
  auto* channel_sums = workspace.take<int32_t>(images * input.rows * p_.cols.in);
  auto* sums = workspace.take<double>(input_split_.count * list.count);
  for (int d = 0; d < input_split_.count; ++d) {
    sum_channels(input, d, images, channel_sums);
    int64_t begin = 0;
    for (int64_t i = 0; i < class_count_; begin = list.class_ends[i++]) {
      for (int64_t j = begin; j < list.class_ends[i];) {
        int64_t count = 1;
        while (j + count < list.class_ends[i] && count < kSummedTogether &&
               list.sources[j + count] == list.sources[j] + count) {
          ++count;
        }
        const int32_t* from = channel_sums + list.sources[j];
        double* to = sums + d * list.count + j;
        if (wide_) {
          sum_taps<int64_t>(from, i, count, to);
        } else {
          sum_taps<int32_t>(from, i, count, to);
        }
        j += count;
      }
    }
  }
  return sums;
}

template <class Isa>
void Gather<Isa>::sum_channels(const BlockInput& input, int digit, int64_t images, int32_t* sums) const {
  for (int64_t n = 0; n < images; ++n) {
    for (int64_t h = 0; h < input.rows; ++h) {
      const uint8_t* row = input.digits + digit * input.plane + n * input.image_bytes + h * input.row_bytes;
      for (int64_t w = 0; w < p_.cols.in; ++w)
        *sums++ = Isa::sum_bytes(row + w * input.pixel_bytes, 4 * quads_);
    }
  }
}

template <class Isa>
template <class Total>
void Gather<Isa>::sum_taps(const int32_t* first, int64_t cls, int64_t count, double* sums) const {
  const TapSpan& rows = p_.rows.classes[static_cast<size_t>(cls / col_classes_)];
  const TapSpan& cols = cols_.classes[static_cast<size_t>(cls % col_classes_)];
  Total totals[kSummedTogether];
  std::fill_n(totals, count, Total{0});
  const int64_t taps = classes_[cls].segment_count == 0 ? 0 : cols.last - cols.first;
  for (int64_t r = 0; r < rows.last - rows.first; ++r) {
    for (int64_t q = 0; q < taps; ++q) {
      const int32_t* row = first + r * p_.rows.dilation * p_.cols.in + q * p_.cols.dilation;
      for (int64_t i = 0; i < count; ++i) totals[i] += row[i];
    }
  }
  for (int64_t i = 0; i < count; ++i) sums[i] = static_cast<double>(totals[i]);
}

}  // namespace bitdial::kernels::vector
