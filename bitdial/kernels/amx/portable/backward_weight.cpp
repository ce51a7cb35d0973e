// Weight gradient: blocks of 32 input channels x 32 output channels per tap, summed over images and pixels.
#include <algorithm>
#include <memory>
#include <vector>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/amx/portable/corrections.h"
#include "bitdial/kernels/amx/portable/drivers.h"
#include "bitdial/kernels/amx/portable/reduction.h"
#include "bitdial/kernels/amx/portable/tile_pack.h"
#include "bitdial/kernels/code_sums.h"
#include "bitdial/kernels/value.h"

namespace bitdial::kernels::amx {
namespace {

/// A remainder of so many images runs as 64 with zeros, fewer along the fused axis.
constexpr int64_t kWorthPadding = 48;
/// Operands that a visit reads should stay in the L2 cache for all taps and blocks.
constexpr int64_t kVisitBytes = int64_t{1} << 20;
/// Fewer steps are not worth loading and storing a block's sums.
constexpr int64_t kVisitSteps = 16;

std::vector<std::unique_ptr<Reduction>> plan_reductions(const GradientProblem& problem, Workspace& memory) {
  const int64_t batch = problem.shape.batch;
  const int64_t rest = batch % 64;
  const int64_t images = rest >= kWorthPadding ? batch : batch - rest;
  std::vector<std::unique_ptr<Reduction>> reductions;
  if (images > 0) reductions.push_back(std::make_unique<ImageReduction>(problem, 0, images, memory));
  if (images < batch) {
    reductions.push_back(std::make_unique<FusedReduction>(problem, images, batch - images, memory));
  }
  return reductions;
}

/// Sums of the codes that corrections need, per tap: of X by input channel, of dY by output channel.
struct CodeSums {
  explicit CodeSums(const GradientProblem& p);
  std::vector<int64_t> x, dy;  // [tap][channel]
  std::vector<int64_t> count;  // [tap]
};

CodeSums::CodeSums(const GradientProblem& p) {
  const ConvShape& s = p.shape;
  const int64_t taps = s.kernel_height * s.kernel_width;
  const int64_t depth = p.depth(), columns = p.columns();
  const auto x_pixels =
      sum_images(p.x, s.batch, s.in_height * s.in_width, s.in_channels, p.group * depth, depth);
  const auto dy_pixels =
      sum_images(p.dy, s.batch, s.out_height() * s.out_width(), s.out_channels, p.group * columns, columns);
  x.resize(static_cast<size_t>(taps * depth));
  dy.resize(static_cast<size_t>(taps * columns));
  count.resize(static_cast<size_t>(taps));
  const Axis rows = forward_axis(vertical(s));
  const Axis cols = forward_axis(horizontal(s));
  for (int64_t tap = 0; tap < taps; ++tap) {
    const AxisTap& r = rows.taps[static_cast<size_t>(tap / s.kernel_width)];
    const AxisTap& q = cols.taps[static_cast<size_t>(tap % s.kernel_width)];
    for (int64_t oh = 0; oh < rows.positions; ++oh) {
      for (int64_t ow = 0; ow < cols.positions; ++ow) {
        const int64_t h = rows.input(oh, r), w = cols.input(ow, q);
        if (!rows.inside(h) || !cols.inside(w)) continue;
        count[static_cast<size_t>(tap)] += s.batch;
        const int64_t* x_sums = x_pixels.data() + (h * s.in_width + w) * depth;
        const int64_t* dy_sums = dy_pixels.data() + (oh * cols.positions + ow) * columns;
        for (int64_t c = 0; c < depth; ++c) x[static_cast<size_t>(tap * depth + c)] += x_sums[c];
        for (int64_t k = 0; k < columns; ++k) dy[static_cast<size_t>(tap * columns + k)] += dy_sums[k];
      }
    }
  }
}

/// The sums of some neighbouring blocks, of one thread.
class GroupSums {
 public:
  GroupSums(const DigitPlan& digits, bool needs_wide) : sums_(static_cast<size_t>(kGroup)) {
    for (BlockSums& sums : sums_) {
      sums.narrow = memory_.take<int32_t>(digits.classes * kBlockSums);
      if (needs_wide) sums.wide = memory_.take<int64_t>(kBlockSums);
    }
  }
  void reset() {
    for (BlockSums& sums : sums_) {
      sums.steps = 0;
      sums.has_wide = false;
    }
  }
  BlockSums& operator[](int64_t i) { return sums_[static_cast<size_t>(i)]; }

  /// Half a megabyte: the sums stay in the L2 cache between visits.
  static constexpr int64_t kGroup = 128;

 private:
  Workspace memory_;
  std::vector<BlockSums> sums_;
};

class GradientBlocks {
 public:
  GradientBlocks(const BlockKernels& kernels, const GradientProblem& problem, float* dw, Workspace& memory)
      : kernels_(kernels),
        p_(problem),
        dw_(dw),
        digits_(plan_digits(problem.x.type, problem.dy.type)),
        taps_(problem.shape.kernel_height * problem.shape.kernel_width),
        depth_blocks_((problem.depth() + 31) / 32),
        column_blocks_((problem.columns() + 31) / 32),
        reductions_(plan_reductions(problem, memory)) {
    for (const auto& r : reductions_) steps_ += r->lines() * r->line_steps();
    if (needs_corrections(p_.x, p_.dy)) code_sums_ = std::make_unique<CodeSums>(p_);
  }

  void run() const {
    parallel_for(depth_blocks_ * column_blocks_ * taps_, 1, [&](int64_t begin, int64_t end) {
      const TileScope tiles(kernels_);
      GroupSums sums(digits_, steps_ > digits_.max_steps);
      for (int64_t first = begin; first < end; first += GroupSums::kGroup) {
        const int64_t last = std::min(first + GroupSums::kGroup, end);
        sums.reset();
        for (const auto& reduction : reductions_) add(*reduction, first, last, sums);
        store(first, last, sums);
      }
    });
  }

 private:
  struct Block {
    int64_t depth, column, tap;
  };
  Block block(int64_t i) const { return {i / taps_ / column_blocks_, i / taps_ % column_blocks_, i % taps_}; }

  /// Adds a reduction to blocks [begin, end), some lines per visit.
  void add(const Reduction& reduction, int64_t begin, int64_t end, GroupSums& sums) const {
    const int64_t cached = kVisitBytes / std::max<int64_t>(reduction.line_bytes(), 1);
    const int64_t worthwhile = (kVisitSteps + reduction.line_steps() - 1) / reduction.line_steps();
    const int64_t lines = std::max(cached, worthwhile);
    std::vector<Run> runs;
    for (int64_t line = 0; line < reduction.lines(); line += lines) {
      for (int64_t i = begin; i < end; ++i) {
        visit(reduction, line, std::min(line + lines, reduction.lines()), block(i), runs, sums[i - begin]);
      }
    }
  }

  /// Adds lines [first, last) to one block.
  void visit(const Reduction& reduction, int64_t first, int64_t last, const Block& b, std::vector<Run>& runs,
             BlockSums& sums) const {
    BlockGeometry geometry = reduction.geometry();
    const int64_t r = b.tap / p_.shape.kernel_width;
    const int64_t s = b.tap % p_.shape.kernel_width;
    runs.clear();
    for (int64_t line = first; line < last; ++line) reduction.add_runs(line, r, s, b.depth, b.column, runs);
    if (runs.empty()) return;
    geometry.row_tiles = p_.depth() - b.depth * 32 > 16 ? 2 : 1;
    geometry.column_tiles = p_.columns() - b.column * 32 > 16 ? 2 : 1;
    kernels_.accumulate(digits_, geometry, runs.data(), static_cast<int64_t>(runs.size()), sums);
  }

  void store(int64_t begin, int64_t end, GroupSums& group) const {
    alignas(64) int64_t totals[kBlockSums];
    for (int64_t i = begin; i < end; ++i) {
      const BlockSums& sums = group[i - begin];
      if (!code_sums_ && digits_.classes == 1 && !sums.has_wide && sums.steps > 0) {
        store_narrow(block(i), sums.narrow);
      } else {
        kernels_.collect(digits_, sums, totals);
        store_totals(block(i), totals);
      }
    }
  }

  /// dw of input channel 0 of the group's output channel `column`.
  float* output(int64_t column, int64_t tap) const {
    return dw_ + ((p_.group * p_.columns() + column) * taps_ + tap) * p_.depth();
  }

  /// Tiles are [input channel][output channel], dw has neighbouring input channels.
  void store_narrow(const Block& b, const int32_t* narrow) const {
    const float scale = p_.x.params[0].scale * p_.dy.params[0].scale;
    alignas(64) int32_t turned[256];
    for (int64_t tile = 0; tile < 4; ++tile) {
      const int64_t c = b.depth * 32 + tile / 2 * 16;
      const int64_t k = b.column * 32 + tile % 2 * 16;
      const int64_t channels = std::min<int64_t>(16, p_.depth() - c);
      if (channels <= 0 || k >= p_.columns()) continue;
      transpose_words(narrow + tile * 256, 64, turned);
      for (int64_t j = 0; j < std::min<int64_t>(16, p_.columns() - k); ++j) {
        float* target = output(k + j, b.tap) + c;
        if (channels == 16) {
          for (int64_t i = 0; i < 16; ++i) target[i] = static_cast<float>(turned[j * 16 + i]) * scale;
        } else {
          for (int64_t i = 0; i < channels; ++i) target[i] = static_cast<float>(turned[j * 16 + i]) * scale;
        }
      }
    }
  }

  void store_totals(const Block& b, const int64_t* totals) const {
    const float scale = p_.x.params[0].scale * p_.dy.params[0].scale;
    const int64_t channels = std::min<int64_t>(32, p_.depth() - b.depth * 32);
    for (int64_t j = 0; j < std::min<int64_t>(32, p_.columns() - b.column * 32); ++j) {
      float* target = output(b.column * 32 + j, b.tap) + b.depth * 32;
      for (int64_t i = 0; i < channels; ++i) {
        const int64_t total = totals[i / 16 * 512 + j / 16 * 256 + i % 16 * 16 + j % 16];
        target[i] = code_sums_ ? corrected(b, i, j, total) : static_cast<float>(total) * scale;
      }
    }
  }

  float corrected(const Block& b, int64_t i, int64_t j, int64_t total) const {
    const QuantParams& x = p_.x.params[0];
    const QuantParams& dy = p_.dy.params[0];
    return corrected_value(total, code_sums_->x[static_cast<size_t>(b.tap * p_.depth() + b.depth * 32 + i)],
                           code_sums_->dy[static_cast<size_t>(b.tap * p_.columns() + b.column * 32 + j)],
                           code_sums_->count[static_cast<size_t>(b.tap)], {x.scale, x.offset, x.zero_code},
                           {dy.scale, dy.offset, dy.zero_code});
  }

  const BlockKernels& kernels_;
  const GradientProblem& p_;
  float* dw_;
  DigitPlan digits_;
  int64_t taps_, depth_blocks_, column_blocks_;
  std::vector<std::unique_ptr<Reduction>> reductions_;
  int64_t steps_ = 0;  // an upper bound, of a whole block
  std::unique_ptr<CodeSums> code_sums_;
};

}  // namespace

void backward_weight(const BlockKernels& kernels, const ConvShape& shape, const Operand& x, const Operand& dy,
                     float* dw) {
  for (int64_t group = 0; group < shape.groups; ++group) {
    Workspace memory;
    GradientBlocks(kernels, {.shape = shape, .group = group, .x = x, .dy = dy}, dw, memory).run();
  }
}

}  // namespace bitdial::kernels::amx
