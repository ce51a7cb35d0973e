#include "bitdial/kernels/quantize.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <optional>
#include <type_traits>
#include <vector>

#include "bitdial/core/error.h"
#include "bitdial/core/parallel.h"
#include "bitdial/core/profile.h"
#include "bitdial/kernels/float_environment.h"
#include "bitdial/kernels/isa.h"
#include "bitdial/kernels/quantize_kernels.h"

namespace bitdial::kernels {

double join_lanes(const double* lanes) {
  double sums[kSumLanes];
  std::copy_n(lanes, kSumLanes, sums);
  for (int64_t half = kSumLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

namespace {

// The fewest blocks worth a thread: 256 KiB of float32.
constexpr int64_t kGrain = 32;

const QuantizeKernels& active_kernels() {
  return by_vector_width(active_isa(), scalar::kQuantize, avx2::kQuantize, avx512vnni::kQuantize);
}

template <class Input>
constexpr int input_index() {
  return static_cast<int>(std::is_same_v<Input, float> ? InputType::kFloat32 : InputType::kBFloat16);
}

int64_t blocks_of(int64_t count) { return (count + kBlock - 1) / kBlock; }

void merge(const BlockStatistics& from, BlockStatistics& into) {
  into.saturated += from.saturated;
  into.zeros += from.zeros;
  into.min = std::min(into.min, from.min);
  into.max = std::max(into.max, from.max);
  into.finite = into.finite && from.finite;
}

Range to_range(const BlockStatistics& statistics) {
  if (!statistics.finite) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    return {nan, nan};
  }
  if (statistics.min > statistics.max) return {};
  return {statistics.min + 0.0F, statistics.max + 0.0F};  // -0.0 becomes 0.0
}

void check_params(const char* operation, const TensorShape& shape, size_t params) {
  require(params == 1 || static_cast<int64_t>(params) == shape.outer, operation,
          "{} scales given, expected 1 or one for each of the {} samples or channels", params, shape.outer);
}

/// Logical indices of the elements in memory order. Within a sample of an interleaved tensor the logical
/// index of element (pixel p, channel c) is c * inner + p: a table from the start of any pixel on serves
/// every pixel.
class LogicalIndex {
 public:
  explicit LogicalIndex(const TensorShape& shape) : inner_(shape.inner), channels_(shape.channels) {
    planar_ = shape.order == MemoryOrder::kPlanar || shape.channels == 1 || shape.inner == 1;
    require(planar_ || inner_ * channels_ < std::numeric_limits<uint32_t>::max(), "quantize",
            "stochastic rounding of an interleaved tensor takes samples of less than 2^32 elements, got {}",
            inner_ * channels_);
    const int64_t length = planar_ ? kBlock : std::min(channels_ + kBlock, shape.elements());
    offsets_.resize(static_cast<size_t>(length + kSumLanes));
    int64_t pixel = 0, channel = 0;
    for (auto& offset : offsets_) {
      offset = static_cast<uint32_t>(planar_ ? pixel : channel * inner_ + pixel);
      if (planar_ || ++channel == channels_) {
        channel = 0;
        ++pixel;
      }
    }
  }

  bool is_planar() const { return planar_; }

  /// The indices of a block that starts `position` elements into the tensor and stays within one sample
  /// unless the tensor is planar.
  void locate(int64_t position, QuantizeBlock& block) const {
    if (planar_) {
      block.index_base = static_cast<uint64_t>(position);
      block.index_offsets = offsets_.data();
      return;
    }
    const int64_t sample = position / (inner_ * channels_);
    const int64_t pixel = position % (inner_ * channels_) / channels_;
    block.index_base = static_cast<uint64_t>(sample * inner_ * channels_ + pixel);
    block.index_offsets = offsets_.data() + position % channels_;
  }

  /// Whether all logical indices of the block have the same upper 32 bits, as vector kernels need.
  bool has_one_upper_half(const QuantizeBlock& block) const {
    const auto furthest = static_cast<uint64_t>(planar_ ? kBlock : inner_ * channels_);
    return (block.index_base & 0xFFFFFFFFU) + furthest <= 0xFFFFFFFFU;
  }

 private:
  int64_t inner_, channels_;
  bool planar_;
  std::vector<uint32_t> offsets_;
};

/// One quantise pass; blocks lie on the fixed partition, so that sums can be taken on the way.
template <class Input>
class QuantizePass {
 public:
  QuantizePass(const TensorShape& shape, const Format& format, std::span<const QuantParams> params,
               RandomKey key, void* codes)
      : container_(container(format)), key_(key), codes_(static_cast<char*>(codes)) {
    check_params("quantize", shape, params.size());
    for (const auto& entry : params) quantizers_.push_back(make_quantizer(format, entry));
    if (format.rounding == Rounding::kStochastic) index_.emplace(shape);
    // Pieces end where the scale changes, and where a sample's logical indices start anew.
    const bool by_sample = quantizers_.size() > 1 || (index_ && !index_->is_planar());
    piece_elements_ = by_sample ? shape.channels * shape.inner : shape.elements();
  }

  /// x points to element `begin`.
  void block(const QuantizeKernels& kernels, const Input* x, int64_t begin, int64_t end,
             BlockStatistics& statistics) const {
    while (begin < end) {
      const int64_t piece_end = std::min(end, (begin / piece_elements_ + 1) * piece_elements_);
      piece(kernels, x, begin, piece_end, statistics);
      x += piece_end - begin;
      begin = piece_end;
    }
  }

 private:
  void piece(const QuantizeKernels& kernels, const Input* x, int64_t begin, int64_t end,
             BlockStatistics& statistics) const {
    QuantizeBlock block{.x = x, .codes = codes_ + begin * code_bytes(), .count = end - begin, .key = key_};
    const QuantizeKernels* chosen = &kernels;
    if (index_) {
      index_->locate(begin, block);
      if (!index_->has_one_upper_half(block)) chosen = &scalar::kQuantize;
    }
    const auto slice = quantizers_.size() == 1 ? 0 : static_cast<size_t>(begin / piece_elements_);
    chosen->quantize[input_index<Input>()](quantizers_[slice], container_, block, statistics);
  }

  int64_t code_bytes() const {
    switch (container_) {
      case Container::kInt8:
      case Container::kUInt8:
        return 1;
      case Container::kInt16:
      case Container::kUInt16:
        return 2;
      case Container::kFloat32:
        break;
    }
    return 4;
  }

  Container container_;
  RandomKey key_;
  char* codes_;
  std::vector<Quantizer> quantizers_;
  std::optional<LogicalIndex> index_;
  int64_t piece_elements_ = 0;
};

/// Runs body(begin, end, statistics) for every block of the fixed partition, on several threads.
template <class Body>
BlockStatistics for_each_block(int64_t count, const Body& body) {
  BlockStatistics total;
  std::mutex mutex;
  parallel_for(blocks_of(count), kGrain, [&](int64_t first, int64_t last) {
    const IeeeFloat environment;
    BlockStatistics statistics;
    for (int64_t block = first; block < last; ++block) {
      body(block * kBlock, std::min(count, (block + 1) * kBlock), statistics);
    }
    const std::lock_guard lock(mutex);
    merge(statistics, total);
  });
  return total;
}

/// The sums of one tensor, gathered block by block.
template <class Input>
class SumsPass {
 public:
  SumsPass(const Input* x, int64_t count, std::span<const Grid> grids, bool with_data)
      : x_(x), with_data_(with_data), grids_(grids.begin(), grids.end()) {
    require(grids.size() <= kMaxGrids, "abs_sums", "{} grids given, at most {} are taken", grids.size(),
            kMaxGrids);
    for (const Grid& grid : grids) {
      const Format format{.rule = ScaleRule::kPowerOfTwo, .word_length = grid.word_length};
      check(format);
      require(grid.step > 0.0F && std::isfinite(grid.step), "abs_sums",
              "the step is {}, expected more than 0", grid.step);
      quantizers_.push_back(make_quantizer(format, {.scale = grid.step}));
    }
    blocks_.resize(static_cast<size_t>(blocks_of(count)));
  }

  void block(const QuantizeKernels& kernels, int64_t begin, int64_t end) {
    BlockSums& sums = blocks_[static_cast<size_t>(begin / kBlock)];
    if (with_data_) sums.data = kernels.abs_sum[input_index<Input>()](x_ + begin, end - begin);
    for (size_t i = 0; i < quantizers_.size(); ++i) {
      const auto& chosen = grids_[i].word_length <= 24 ? kernels : scalar::kQuantize;
      sums.grids[i] = chosen.quantized_abs_sum[input_index<Input>()](quantizers_[i], x_ + begin, end - begin);
    }
  }

  AbsSums result() const {
    AbsSums total;
    std::array<int64_t, kMaxGrids> steps{};
    for (const BlockSums& block : blocks_) {
      total.data += block.data;
      for (size_t i = 0; i < kMaxGrids; ++i) steps[i] += block.grids[i];
    }
    for (size_t i = 0; i < grids_.size(); ++i) {
      total.grids[i] = static_cast<double>(steps[i]) * static_cast<double>(grids_[i].step);
    }
    return total;
  }

 private:
  struct BlockSums {
    double data = 0.0;
    std::array<int64_t, kMaxGrids> grids{};
  };

  const Input* x_;
  bool with_data_;
  std::vector<Grid> grids_;
  std::vector<Quantizer> quantizers_;
  std::vector<BlockSums> blocks_;
};

template <class Input>
AbsSums run_sums(const Input* x, int64_t count, std::span<const Grid> grids, bool with_data) {
  const PhaseScope phase(Phase::kPolicy);
  const IeeeFloat environment;
  const QuantizeKernels& kernels = active_kernels();
  SumsPass<Input> pass(x, count, grids, with_data);
  for_each_block(count,
                 [&](int64_t begin, int64_t end, BlockStatistics&) { pass.block(kernels, begin, end); });
  return pass.result();
}

QuantizeStatistics finish(const TensorShape& shape, const BlockStatistics& statistics) {
  return {.count = shape.elements(),
          .saturated = statistics.saturated,
          .zeros = statistics.zeros,
          .range = to_range(statistics)};
}

template <class Input>
QuantizeStatistics run_quantize(const Input* x, const TensorShape& shape, const Format& format,
                                std::span<const QuantParams> params, RandomKey key, void* codes) {
  const PhaseScope phase(Phase::kQuantize);
  const IeeeFloat environment;
  const QuantizeKernels& kernels = active_kernels();
  const QuantizePass<Input> pass(shape, format, params, key, codes);
  return finish(
      shape, for_each_block(shape.elements(), [&](int64_t begin, int64_t end, BlockStatistics& statistics) {
        pass.block(kernels, x + begin, begin, end, statistics);
      }));
}

/// Runs body(elements, begin, end, statistics) for every block of the tensor, made just before.
template <class Input, class Body>
BlockStatistics for_each_computed(const ComputedTensor& x, int64_t count, const Body& body) {
  return for_each_block(count, [&](int64_t begin, int64_t end, BlockStatistics& statistics) {
    alignas(64) Input elements[kBlock];
    Input* to = x.values != nullptr ? static_cast<Input*>(x.values) + begin : elements;
    x.compute(begin, end, to);
    body(static_cast<const Input*>(to), begin, end, statistics);
  });
}

template <class Input>
QuantizeStatistics run_quantize(const ComputedTensor& x, const TensorShape& shape, const Format& format,
                                std::span<const QuantParams> params, RandomKey key, void* codes) {
  const IeeeFloat environment;
  const QuantizeKernels& kernels = active_kernels();
  const QuantizePass<Input> pass(shape, format, params, key, codes);
  return finish(shape, for_each_computed<Input>(x, shape.elements(),
                                                [&](const Input* elements, int64_t begin, int64_t end,
                                                    BlockStatistics& statistics) {
                                                  pass.block(kernels, elements, begin, end, statistics);
                                                }));
}

/// Goes by the parts of the packing instead of the fixed partition: statistics do not depend on it.
template <class Input>
QuantizeStatistics run_quantize(const ComputedTensor& x, const TensorShape& shape, const Format& format,
                                std::span<const QuantParams> params, RandomKey key, void* codes,
                                const CodePacking& packing) {
  require(packing.elements() == shape.elements(), "quantize",
          "the packing is of {} elements, the tensor has {}", packing.elements(), shape.elements());
  const IeeeFloat environment;
  const QuantizeKernels& kernels = active_kernels();
  const QuantizePass<Input> pass(shape, format, params, key, codes);
  BlockStatistics total;
  std::mutex mutex;
  const auto run_part = [&](int64_t index, BlockStatistics& statistics) {
    alignas(64) Input elements[kBlock];
    const CodePacking::Part part = packing.part(index);
    for (int64_t i = 0; i < part.count; ++i) {
      const int64_t end = part.first + i * part.stride + part.length;
      for (int64_t begin = end - part.length; begin < end; begin += kBlock) {
        Input* to = x.values != nullptr ? static_cast<Input*>(x.values) + begin : elements;
        const int64_t block_end = std::min(begin + kBlock, end);
        x.compute(begin, block_end, to);
        pass.block(kernels, to, begin, block_end, statistics);
      }
      const int64_t after = i + 1;
      if (after % part.together == 0 || after == part.count) {
        packing.pack(index, i / part.together * part.together, after, codes);
      }
    }
    packing.finish(index);
  };
  parallel_for(packing.parts(), 1, [&](int64_t first, int64_t last) {
    const IeeeFloat environment;
    BlockStatistics statistics;
    for (int64_t index = first; index < last; ++index) run_part(index, statistics);
    const std::lock_guard lock(mutex);
    merge(statistics, total);
  });
  return finish(shape, total);
}

template <class Input>
Range run_measure(const ComputedTensor& x, int64_t count) {
  const IeeeFloat environment;
  const QuantizeKernels& kernels = active_kernels();
  return to_range(for_each_computed<Input>(
      x, count, [&](const Input* elements, int64_t begin, int64_t end, BlockStatistics& statistics) {
        kernels.measure[input_index<Input>()](elements, end - begin, statistics);
      }));
}

template <class Input>
QuantizeStatistics run_quantize_with_sums(const Input* x, const TensorShape& shape, const Format& format,
                                          std::span<const QuantParams> params, RandomKey key, void* codes,
                                          std::span<const Grid> grids, AbsSums& sums) {
  const PhaseScope phase(Phase::kQuantize);
  const IeeeFloat environment;
  const QuantizeKernels& kernels = active_kernels();
  const QuantizePass<Input> pass(shape, format, params, key, codes);
  SumsPass<Input> sums_pass(x, shape.elements(), grids, true);
  const auto statistics =
      for_each_block(shape.elements(), [&](int64_t begin, int64_t end, BlockStatistics& block_statistics) {
        sums_pass.block(kernels, begin, end);  // first: the codes may take the place of x
        pass.block(kernels, x + begin, begin, end, block_statistics);
      });
  sums = sums_pass.result();
  return finish(shape, statistics);
}

/// Blocks of one slice after the other, so that a thread may start in the middle of a slice.
template <class Input>
void run_measure(const Input* x, int64_t slices, int64_t slice_elements, std::span<Range> ranges) {
  const PhaseScope phase(Phase::kQuantize);
  require(static_cast<int64_t>(ranges.size()) == slices, "measure_range", "{} ranges given, expected {}",
          ranges.size(), slices);
  const IeeeFloat environment;
  const QuantizeKernels& kernels = active_kernels();
  const int64_t blocks = blocks_of(slice_elements);
  std::vector<BlockStatistics> totals(static_cast<size_t>(slices));
  std::mutex mutex;
  parallel_for(slices * blocks, kGrain, [&](int64_t first, int64_t last) {
    const IeeeFloat environment;
    for (int64_t slice = first / std::max<int64_t>(blocks, 1); first < last; ++slice) {
      const int64_t slice_last = std::min(last, (slice + 1) * blocks);
      const int64_t begin = (first - slice * blocks) * kBlock;
      const int64_t end = std::min(slice_elements, (slice_last - slice * blocks) * kBlock);
      BlockStatistics statistics;
      kernels.measure[input_index<Input>()](x + slice * slice_elements + begin, end - begin, statistics);
      const std::lock_guard lock(mutex);
      merge(statistics, totals[static_cast<size_t>(slice)]);
      first = slice_last;
    }
  });
  std::transform(totals.begin(), totals.end(), ranges.begin(), to_range);
}

template <class Input>
void run_measure(const Input* x, const TensorShape& shape, Granularity granularity, std::span<Range> ranges) {
  const int64_t slices = granularity == Granularity::kTensor ? 1 : shape.outer;
  run_measure(x, slices, slices > 0 ? shape.elements() / slices : 0, ranges);
}

template <class Input>
Range run_mean_sample_range(const Input* x, const TensorShape& shape) {
  if (shape.outer == 0) return {};
  std::vector<Range> ranges(static_cast<size_t>(shape.outer));
  run_measure(x, shape, Granularity::kSample, ranges);
  const IeeeFloat environment;
  double min = 0.0, max = 0.0;
  for (const Range& range : ranges) {
    min += static_cast<double>(range.min);
    max += static_cast<double>(range.max);
  }
  const auto samples = static_cast<double>(shape.outer);
  return {static_cast<float>(min / samples), static_cast<float>(max / samples)};
}

}  // namespace

void measure_range(const float* x, const TensorShape& shape, Granularity granularity,
                   std::span<Range> ranges) {
  run_measure(x, shape, granularity, ranges);
}
void measure_range(const BFloat16* x, const TensorShape& shape, Granularity granularity,
                   std::span<Range> ranges) {
  run_measure(x, shape, granularity, ranges);
}

Range mean_sample_range(const float* x, const TensorShape& shape) { return run_mean_sample_range(x, shape); }
Range mean_sample_range(const BFloat16* x, const TensorShape& shape) {
  return run_mean_sample_range(x, shape);
}

double abs_sum(const float* x, int64_t count) { return run_sums(x, count, {}, true).data; }
double abs_sum(const BFloat16* x, int64_t count) { return run_sums(x, count, {}, true).data; }

double quantized_abs_sum(const float* x, int64_t count, int word_length, float step) {
  const Grid grid{word_length, step};
  return run_sums(x, count, {&grid, 1}, false).grids[0];
}
double quantized_abs_sum(const BFloat16* x, int64_t count, int word_length, float step) {
  const Grid grid{word_length, step};
  return run_sums(x, count, {&grid, 1}, false).grids[0];
}

AbsSums abs_sums(const float* x, int64_t count, std::span<const Grid> grids) {
  return run_sums(x, count, grids, true);
}
AbsSums abs_sums(const BFloat16* x, int64_t count, std::span<const Grid> grids) {
  return run_sums(x, count, grids, true);
}

QuantizeStatistics quantize(const float* x, const TensorShape& shape, const Format& format,
                            std::span<const QuantParams> params, RandomKey key, void* codes) {
  return run_quantize(x, shape, format, params, key, codes);
}
QuantizeStatistics quantize(const BFloat16* x, const TensorShape& shape, const Format& format,
                            std::span<const QuantParams> params, RandomKey key, void* codes) {
  return run_quantize(x, shape, format, params, key, codes);
}

QuantizeStatistics quantize(const ComputedTensor& x, const TensorShape& shape, const Format& format,
                            std::span<const QuantParams> params, RandomKey key, void* codes) {
  if (x.type == OutputType::kFloat32) return run_quantize<float>(x, shape, format, params, key, codes);
  return run_quantize<BFloat16>(x, shape, format, params, key, codes);
}

QuantizeStatistics quantize(const ComputedTensor& x, const TensorShape& shape, const Format& format,
                            std::span<const QuantParams> params, RandomKey key, void* codes,
                            const CodePacking& packing) {
  if (x.type == OutputType::kFloat32)
    return run_quantize<float>(x, shape, format, params, key, codes, packing);
  return run_quantize<BFloat16>(x, shape, format, params, key, codes, packing);
}

Range measure_range(const ComputedTensor& x, int64_t count) {
  return x.type == OutputType::kFloat32 ? run_measure<float>(x, count) : run_measure<BFloat16>(x, count);
}

QuantizeStatistics quantize_with_abs_sums(const float* x, const TensorShape& shape, const Format& format,
                                          std::span<const QuantParams> params, RandomKey key, void* codes,
                                          std::span<const Grid> grids, AbsSums& sums) {
  return run_quantize_with_sums(x, shape, format, params, key, codes, grids, sums);
}
QuantizeStatistics quantize_with_abs_sums(const BFloat16* x, const TensorShape& shape, const Format& format,
                                          std::span<const QuantParams> params, RandomKey key, void* codes,
                                          std::span<const Grid> grids, AbsSums& sums) {
  return run_quantize_with_sums(x, shape, format, params, key, codes, grids, sums);
}

void dequantize(const void* codes, CodeType type, const TensorShape& shape,
                std::span<const QuantParams> params, float* x) {
  check_params("dequantize", shape, params.size());
  const QuantizeKernels& kernels = active_kernels();
  const auto* bytes = static_cast<const char*>(codes);
  const int64_t code_bytes = type == CodeType::kS8 || type == CodeType::kU8 ? 1 : 2;
  const int64_t slice = params.size() > 1 ? shape.channels * shape.inner : shape.elements();
  for_each_block(shape.elements(), [&](int64_t begin, int64_t end, BlockStatistics&) {
    while (begin < end) {
      const int64_t piece_end = std::min(end, (begin / slice + 1) * slice);
      const auto& entry = params[params.size() == 1 ? 0 : static_cast<size_t>(begin / slice)];
      kernels.dequantize(entry, type, bytes + begin * code_bytes, piece_end - begin, x + begin);
      begin = piece_end;
    }
  });
}

}  // namespace bitdial::kernels
