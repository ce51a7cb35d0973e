#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "bitdial/kernels/output_pass.h"
#include "bitdial/kernels/vector/depthwise_problem.h"
#include "bitdial/kernels/vector/tile.h"
#include "bitdial/kernels/vector/transpose.h"
#include "bitdial/kernels/workspace.h"

// Depth-wise FPROP and BPROP of 3x3 kernels. Lanes are channels; the four products of a lane are four
// neighbouring columns of an image row. Rows are interleaved once, [window][channel][4 columns], into a ring
// that stays in the L1 cache; a window serves two outputs (stride 1), one (stride 2) or four (the gradient
// of stride 2), each with the weights at its own place among zeros. Padding is the zero point.
namespace bitdial::kernels::vector {

/// How many channels a task takes: their pixels are one cache line.
inline constexpr int64_t kDepthwiseBlock = 64;

template <class Isa>
class DepthwiseRowKernel {
 public:
  explicit DepthwiseRowKernel(const DepthwiseRows& problem)
      : p_(problem),
        together_(p_.cols.windows() > 4 ? p_.rows.count : kTogether),
        ring_rows_(together_ == kTogether ? 16 : 4) {}

  void run() {
    const int64_t blocks = (p_.channels + kDepthwiseBlock - 1) / kDepthwiseBlock;
    find_rows();
    weights_ = workspace_.take<int8_t>(kSets * 4 * p_.channels);
    sums_ = workspace_.take<int32_t>(2 * 4 * p_.channels);
    const auto samples = static_cast<int64_t>(p_.input.params.size());
    starts_ = workspace_.take<int32_t>(samples * 2 * 4 * p_.channels);
    scales_ = workspace_.take<float>(samples * p_.channels);
    run_tasks(blocks, [&](int64_t block) {
      pack(block_at(block));
      for (int64_t n = 0; n < samples; ++n) prepare(n, block_at(block));
    });
    run_images(blocks);
  }

 private:
  /// A task takes a block of channels of one image or, where a pass over the output can begin at any of them,
  /// of a stretch of images.
  void run_images(int64_t blocks) {
    const int64_t pixels = p_.rows.out * p_.cols.out;
    OutputPass* pass = p_.output.pass;
    int64_t images = pass ? std::clamp<int64_t>(pass->stretch() / pixels, 1, p_.batch) : 1;
    if (pass && images * pixels % pass->alignment() != 0) {
      pass = nullptr;
      images = 1;
    }
    const int64_t groups = (p_.batch + images - 1) / images;
    StretchTasks stretches;
    if (pass) stretches.begin(*pass, groups, blocks, workspace_);
    run_tasks(groups * blocks, [&](int64_t task) {
      const int64_t group = task / blocks, first = group * images;
      const int64_t last = std::min(first + images, p_.batch);
      for (int64_t n = first; n < last; ++n) run_image(n, block_at(task % blocks));
      stretches.done(group, first * pixels, last * pixels);
    });
  }

  static constexpr int64_t kSets = 2 * 3 * 4;  // of weights: row class, row, output of a window
  static constexpr int64_t kTogether = 4;      // output rows, of narrow images

  struct Block {
    int64_t first = 0, channels = 0;
  };
  Block block_at(int64_t index) const {
    const int64_t first = index * kDepthwiseBlock;
    return {first, std::min(kDepthwiseBlock, p_.channels - first)};
  }

  /// The input rows of an output row, relative to its window.
  struct RowClass {
    int64_t first = 0, count = 0;
  };

  void find_rows() {
    for (int64_t o = 0; o < p_.rows.count; ++o) {
      const int8_t* tap = p_.rows.tap[o];
      RowClass& cls = classes_[o];
      while (tap[cls.first] < 0) ++cls.first;
      while (cls.first + cls.count < 4 && tap[cls.first + cls.count] >= 0) ++cls.count;
    }
  }

  int8_t* weights_at(const Block& block, int64_t cls, int64_t row, int64_t output) const {
    return weights_ + (kSets * block.first + ((cls * 3 + row) * 4 + output) * block.channels) * 4;
  }

  /// Every output's weights at their places in a window, and their sums.
  void pack(const Block& block) const {
    const auto* codes = static_cast<const int8_t*>(p_.weight.codes) + block.first * 9;
    std::fill_n(sums_ + 8 * block.first, 8 * block.channels, 0);
    for (int64_t cls = 0; cls < p_.rows.count; ++cls) {
      for (int64_t o = 0; o < p_.cols.count; ++o) {
        int32_t* sums = sums_ + 8 * block.first + (4 * cls + o) * block.channels;
        for (int64_t r = 0; r < classes_[cls].count; ++r) {
          const int8_t* kernel_row = codes + 3 * p_.rows.tap[cls][classes_[cls].first + r];
          int8_t* packed = weights_at(block, cls, r, o);
          for (int64_t c = 0; c < block.channels; ++c) {
            for (int64_t i = 0; i < 4; ++i) {
              const int8_t tap = p_.cols.tap[o][i];
              packed[4 * c + i] = tap < 0 ? int8_t{0} : kernel_row[9 * c + tap];
              sums[c] += packed[4 * c + i];
            }
          }
        }
      }
    }
  }

  /// What the sums of a sample start from, and what they are multiplied by.
  void prepare(int64_t n, const Block& block) const {
    const QuantParams& params = p_.input.params[static_cast<size_t>(n)];
    const int32_t zero = zero_of(params);
    int32_t* starts = starts_ + 8 * (n * p_.channels + block.first);
    for (int64_t i = 0; i < 8 * block.channels; ++i) starts[i] = -zero * sums_[8 * block.first + i];
    float* scales = scales_ + n * p_.channels + block.first;
    for (int64_t c = 0; c < block.channels; ++c) {
      const size_t k = p_.weight.params.size() == 1 ? 0 : static_cast<size_t>(block.first + c);
      scales[c] = params.scale * p_.weight.params[k].scale;
    }
  }

  int32_t zero_of(const QuantParams& params) const {
    return static_cast<int32_t>(unsigned_digits(p_.input.type).zero + params.zero_code);
  }

  /// What the rows of an image and block share.
  struct Image {
    Block block;
    const uint8_t* codes = nullptr;  ///< of the block's first channel
    uint8_t flip = 0;
    const uint8_t* padding = nullptr;  ///< a pixel of padding, as codes
    uint8_t* ring = nullptr;           ///< interleaved rows, then one of padding
    int64_t row_bytes = 0;
    const int32_t* starts = nullptr;  ///< [row class][output][channel]
    const float* scales = nullptr;
  };

  void run_image(int64_t n, const Block& block) const {
    Workspace workspace;
    const int64_t sample = p_.input.params.size() == 1 ? 0 : n;
    const int32_t zero = zero_of(p_.input.params[static_cast<size_t>(sample)]);
    Image image{block};
    image.flip = unsigned_digits(p_.input.type).flip[0];
    image.codes =
        static_cast<const uint8_t*>(p_.input.codes) + block.first + n * p_.rows.in * p_.cols.in * p_.channels;
    auto* padding = workspace.take<uint8_t>(block.channels);
    std::fill_n(padding, block.channels, static_cast<uint8_t>(zero ^ image.flip));
    image.padding = padding;
    image.row_bytes = p_.cols.windows() * block.channels * 4;
    image.ring = workspace.take<uint8_t>((ring_rows_ + 1) * image.row_bytes);
    std::memset(image.ring + ring_rows_ * image.row_bytes, zero, static_cast<size_t>(image.row_bytes));
    image.starts = starts_ + 8 * (sample * p_.channels + block.first);
    image.scales = scales_ + sample * p_.channels + block.first;
    run_rows(image, n * p_.rows.out * p_.cols.out * p_.channels + block.first);
  }

  /// An output row: the interleaved rows under it, and its first element.
  struct Row {
    const uint8_t* inputs[3];
    int64_t output = 0;
  };

  /// Rows of narrow images go several at a time: the weights are loaded once for them.
  void run_rows(const Image& image, int64_t first_output) const {
    const int64_t shift = p_.rows.count - 1;  // one or two classes of rows
    int64_t next = 0;                         // input row to interleave
    for (int64_t begin = 0; begin < p_.rows.out; begin += together_) {
      Row rows[2][kTogether];
      int64_t counts[2] = {0, 0};
      for (int64_t o = begin; o < std::min(begin + together_, p_.rows.out); ++o) {
        const int64_t cls = o & shift;
        const int64_t first = p_.rows.first + (o >> shift) * p_.rows.step + classes_[cls].first;
        Row& row = rows[cls][counts[cls]++];
        for (int64_t r = 0; r < classes_[cls].count; ++r) {
          const int64_t h = first + r;
          const bool inside = h >= 0 && h < p_.rows.in;
          for (; inside && next <= h; ++next) interleave(image, next);
          row.inputs[r] = image.ring + (inside ? (h & (ring_rows_ - 1)) : ring_rows_) * image.row_bytes;
        }
        row.output = first_output + o * p_.cols.out * p_.channels;
      }
      for (int64_t cls = 0; cls < p_.rows.count; ++cls) {
        if (p_.output.type == OutputType::kFloat32) {
          run_class(image, cls, rows[cls], counts[cls], static_cast<float*>(p_.output.data));
        } else {
          run_class(image, cls, rows[cls], counts[cls], static_cast<uint16_t*>(p_.output.data));
        }
      }
    }
  }

  void interleave(const Image& image, int64_t h) const {
    const uint8_t* row = image.codes + h * p_.cols.in * p_.channels;
    uint8_t* target = image.ring + (h & (ring_rows_ - 1)) * image.row_bytes;
    for (int64_t q = 0; q < p_.cols.windows(); ++q) {
      const uint8_t* pixels[4];
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t w = p_.cols.first + q * p_.cols.step + i;
        pixels[i] = w >= 0 && w < p_.cols.in ? row + w * p_.channels : image.padding;
      }
      interleave_4_rows(pixels, image.flip, image.block.channels,
                        reinterpret_cast<int8_t*>(target + q * image.block.channels * 4));
    }
  }

  template <class T>
  void run_class(const Image& image, int64_t cls, const Row* rows, int64_t count, T* output) const {
    const auto run = [&](auto row_count, auto outputs) {
      for (int64_t c = 0; c < image.block.channels; c += Isa::kWidth) {
        run_lanes<row_count(), outputs()>(image, cls, rows, count, c, output + c);
      }
    };
    constexpr std::integral_constant<int, 1> kOne;
    constexpr std::integral_constant<int, 2> kTwo;
    constexpr std::integral_constant<int, 3> kThree;
    constexpr std::integral_constant<int, 4> kFour;
    const auto with_rows = [&](auto outputs) {
      if (classes_[cls].count == 3) return run(kThree, outputs);
      if (classes_[cls].count == 2) return run(kTwo, outputs);
      return run(kOne, outputs);
    };
    if (p_.cols.count == 1) return run(kThree, kOne);  // strided forward
    return p_.cols.count == 2 ? with_rows(kTwo) : with_rows(kFour);
  }

  /// Output rows of one class and vector of channels.
  template <int kRows, int kOutputs, class T>
  __attribute__((noinline)) void run_lanes(const Image& image, int64_t cls, const Row* rows, int64_t count,
                                           int64_t channel, T* output) const {
    typename Isa::Panel weights[kRows][kOutputs];
    typename Isa::Sum starts[kOutputs];
    for (int o = 0; o < kOutputs; ++o) {
      for (int r = 0; r < kRows; ++r) {
        weights[r][o] = Isa::load_panel(weights_at(image.block, cls, r, o) + 4 * channel);
      }
      starts[o] = Isa::load(image.starts + (cls * 4 + o) * image.block.channels + channel);
    }
    const typename Isa::Float scale = Isa::load(image.scales + channel);
    const float* bias = p_.bias ? p_.bias + image.block.first + channel : nullptr;
    const int64_t window_bytes = image.block.channels * 4;
    const int64_t pixel = p_.channels;
    const int64_t columns = p_.cols.out;
    for (const Row* row = rows; row < rows + count; ++row) {
      const uint8_t* inputs[kRows];
      for (int r = 0; r < kRows; ++r) inputs[r] = row->inputs[r] + 4 * channel;
      T* target = output + row->output;
      for (int64_t left = columns; left > 0; left -= kOutputs, target += kOutputs * pixel) {
        typename Isa::Sum sums[kOutputs];
#pragma GCC unroll 4
        for (int o = 0; o < kOutputs; ++o) sums[o] = starts[o];
#pragma GCC unroll 3
        for (int r = 0; r < kRows; ++r) {
          const typename Isa::Quad window = Isa::load_quads(inputs[r]);
          inputs[r] += window_bytes;
#pragma GCC unroll 4
          for (int o = 0; o < kOutputs; ++o) sums[o] = Isa::dot(sums[o], window, weights[r][o]);
        }
#pragma GCC unroll 4
        for (int o = 0; o < kOutputs; ++o) {
          if (o > 0 && o >= left) break;
          typename Isa::Float value = Isa::multiply(Isa::to_float(sums[o]), scale);
          if (bias) {
            value = Isa::add(value, Isa::load(bias));
            if constexpr (sizeof(T) == 2) value = Isa::quiet(value);
          }
          Isa::store(target + o * pixel, value, Isa::kWidth);
        }
      }
    }
  }

  const DepthwiseRows& p_;
  Workspace workspace_;
  int64_t together_;   ///< output rows
  int64_t ring_rows_;  ///< as many as lie under them or more, a power of two
  RowClass classes_[2];
  int8_t* weights_ = nullptr;  ///< [block][row class][row][output][channel][4]
  int32_t* sums_ = nullptr;    ///< of them, [block][row class][output][channel]
  int32_t* starts_ = nullptr;  ///< [sample][block][row class][output][channel]
  float* scales_ = nullptr;    ///< [sample][channel]
};

}  // namespace bitdial::kernels::vector
