// Forward and data gradient: one block of outputs at a time, summed over the taps that lie inside the image.
#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "bitdial/core/parallel.h"
#include "bitdial/kernels/amx/portable/corrections.h"
#include "bitdial/kernels/amx/portable/drivers.h"
#include "bitdial/kernels/amx/portable/rows.h"
#include "bitdial/kernels/amx/portable/weights.h"

namespace bitdial::kernels::amx {
namespace {

constexpr int64_t kMaxRunSteps = 256;
/// Images that should stay in the L2 cache while the weights pass.
constexpr int64_t kGroupBytes = int64_t{5} << 18;

/// Parameters of operand B's columns, padded to whole blocks.
struct ColumnParams {
  explicit ColumnParams(const Product& p) {
    const auto size = static_cast<size_t>((p.columns + 31) / 32 * 32);
    scale.assign(size, 1.0F);
    offset.assign(size, 0.0F);
    zero_code.assign(size, 0);
    if (p.bias) bias.assign(size, 0.0F);
    for (size_t i = 0; i < static_cast<size_t>(p.columns); ++i) {
      const int64_t column = p.first_column + static_cast<int64_t>(i);
      const QuantParams& params = params_of(p.b, column);
      scale[i] = params.scale;
      offset[i] = params.offset;
      zero_code[i] = params.zero_code;
      if (p.bias) bias[i] = p.bias[column];
    }
  }
  std::vector<float> scale, offset, bias;
  std::vector<int64_t> zero_code;
};

/// One phase of a product: the outputs whose coordinates share a residue.
class Phase {
 public:
  Phase(const BlockKernels& kernels, const Product& product, const RowsPlan& plan, const Rows& rows,
        const ColumnParams& columns, const Corrections* corrections, const Axis& vertical,
        const Axis& horizontal, Workspace& memory)
      : kernels_(kernels),
        p_(product),
        plan_(plan),
        rows_(rows),
        columns_(columns),
        corrections_(corrections),
        v_(vertical),
        h_(horizontal),
        runs_(plan_runs(horizontal, product.depth, plan.fuse_taps)),
        digits_(plan_digits(product.a.type, product.b.type)),
        weights_(product, vertical, horizontal, runs_, memory) {}

  void run() const {
    const int64_t column_blocks = (p_.columns + 31) / 32;
    if (plan_.tile_rows == TileRows::kPixels) {
      for_each(column_blocks * v_.positions, [&](Worker& worker, int64_t i) {
        worker.image_row_of_pixels(i % v_.positions, i / v_.positions);
      });
      return;
    }
    // Some blocks of 32 images share each pass over the weights.
    const int64_t row_blocks = (p_.batch + 31) / 32;
    const int64_t group = std::clamp<int64_t>(kGroupBytes / (32 * rows_.image), 1, row_blocks);
    const int64_t groups = (row_blocks + group - 1) / group;
    for_each(groups * column_blocks * v_.positions, [&](Worker& worker, int64_t i) {
      const int64_t first = i / v_.positions / column_blocks * group;
      for (int64_t block = first; block < std::min(first + group, row_blocks); ++block) {
        worker.image_row_of_images(i % v_.positions, block * 32, i / v_.positions % column_blocks);
      }
    });
  }

 private:
  /// One thread's state.
  class Worker {
   public:
    explicit Worker(const Phase& phase) : f_(phase) {
      sums_.narrow = memory_.take<int32_t>(phase.digits_.classes * kBlockSums);
      sums_.wide = memory_.take<int64_t>(kBlockSums);
    }

    /// Output row `v` of images [image, image + 32): for each pixel a block.
    void image_row_of_images(int64_t v, int64_t image, int64_t column_block) {
      const int64_t images = std::min<int64_t>(32, f_.p_.batch - image);
      BlockGeometry geometry = f_.geometry(images, column_block);
      geometry.a_row = f_.rows_.image;
      geometry.a_row_tile = 16 * f_.rows_.image;
      for (int64_t h = 0; h < f_.h_.positions; ++h) {
        find_runs(v, f_.plan_.halo() ? std::nullopt : std::optional(h),
                  image * f_.rows_.image + (f_.plan_.left + h * f_.h_.in_step) * f_.rows_.pixel,
                  column_block);
        if (h == 0 || f_.corrections_ != nullptr) {
          for (int64_t r = 0; r < images; ++r) set_row(r, image + r, v, h, column_block);
        } else {
          for (int64_t r = 0; r < images; ++r) move_to_next_pixel(r);
        }
        multiply(geometry, images, column_block);
      }
    }

    /// Output row `v` of all images: blocks along the fused axis (image, padded width).
    void image_row_of_pixels(int64_t v, int64_t column_block) {
      const int64_t pitch = f_.plan_.width / f_.h_.in_step;
      const int64_t row_bytes = f_.h_.in_step * f_.rows_.pixel;
      for (int64_t first = 0; first < f_.p_.batch * pitch; first += 32) {
        const int64_t count = std::min<int64_t>(32, f_.p_.batch * pitch - first);
        BlockGeometry geometry = f_.geometry(count, column_block);
        geometry.a_row = row_bytes;
        geometry.a_row_tile = 16 * row_bytes;
        bool any = false;
        for (int64_t r = 0; r < count; ++r) {
          output_rows_[static_cast<size_t>(r)].output = nullptr;
          const int64_t h = (first + r) % pitch;
          if (h >= f_.h_.positions) continue;
          set_row(r, (first + r) / pitch, v, h, column_block);
          any = true;
        }
        if (!any) continue;
        find_runs(v, std::nullopt, first * row_bytes + f_.plan_.left * f_.rows_.pixel, column_block);
        multiply(geometry, count, column_block);
      }
    }

   private:
    /// The taps inside the image, as runs. Without a halo `h` says for which pixel; `origin` is the address
    /// of tap offset 0 in image row 0.
    void find_runs(int64_t v, std::optional<int64_t> h, int64_t origin, int64_t column_block) {
      runs_.clear();
      const uint8_t* weights = f_.weights_.block(column_block);
      for (const AxisTap& tap : f_.v_.taps) {
        const int64_t row = f_.v_.input(v, tap);
        const bool inside = f_.v_.inside(row);
        for (const TapRun& run : f_.runs_) {
          const AxisTap& first = f_.h_.taps[static_cast<size_t>(run.first)];
          if (inside && (!h || f_.h_.inside(f_.h_.input(*h, first)))) {
            add_run(f_.rows_.data + origin + row * f_.rows_.row + first.offset * f_.rows_.pixel, weights,
                    run.steps);
          }
          weights += run.steps * 2 * kTileBytes;
        }
      }
    }

    void add_run(const uint8_t* a, const uint8_t* b, int64_t steps) {
      for (; steps > 0; steps -= kMaxRunSteps, a += kMaxRunSteps * 64, b += kMaxRunSteps * 2 * kTileBytes) {
        runs_.push_back({a, b, std::min(steps, kMaxRunSteps)});
      }
    }

    void set_row(int64_t r, int64_t n, int64_t v, int64_t h, int64_t column_block) {
      const int64_t out_row = f_.v_.out_first + v * f_.v_.out_step;
      const int64_t out_col = f_.h_.out_first + h * f_.h_.out_step;
      OutputRow& row = output_rows_[static_cast<size_t>(r)];
      row.output = static_cast<uint8_t*>(f_.p_.out.data) +
                   (f_.p_.out_index(n, out_row, out_col) + column_block * 32) * f_.output_size();
      const QuantParams& params = params_of(f_.p_.a, n);
      row.scale = params.scale;
      if (f_.corrections_ == nullptr) return;
      row.offset = params.offset;
      row.zero_code = params.zero_code;
      f_.corrections_->fill(n, out_row, out_col, row);
      row.column_sums += column_block * 32;
    }

    void move_to_next_pixel(int64_t r) {
      void*& output = output_rows_[static_cast<size_t>(r)].output;
      output = static_cast<uint8_t*>(output) + f_.h_.out_step * f_.p_.out_channels * f_.output_size();
    }

    void multiply(const BlockGeometry& geometry, int64_t row_count, int64_t column_block) {
      sums_.steps = 0;
      sums_.has_wide = false;
      f_.kernels_.accumulate(f_.digits_, geometry, runs_.data(), static_cast<int64_t>(runs_.size()), sums_);
      f_.kernels_.store_rows(f_.digits_, sums_, output_rows_.data(), row_count,
                             f_.output_columns(column_block));
    }

    const Phase& f_;
    Workspace memory_;
    BlockSums sums_;
    std::vector<Run> runs_;
    std::array<OutputRow, 32> output_rows_;
  };

  template <class Body>
  void for_each(int64_t count, const Body& body) const {
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      const TileScope tiles(kernels_);
      Worker worker(*this);
      for (int64_t i = begin; i < end; ++i) body(worker, i);
    });
  }

  BlockGeometry geometry(int64_t row_count, int64_t column_block) const {
    return {.row_tiles = row_count > 16 ? 2 : 1,
            .column_tiles = p_.columns - column_block * 32 > 16 ? 2 : 1,
            .a_plane = rows_.plane,
            .b_plane = weights_.plane()};
  }

  int64_t output_size() const { return p_.out.type == OutputType::kFloat32 ? 4 : 2; }

  OutputColumns output_columns(int64_t column_block) const {
    const int64_t first = column_block * 32;
    return {.count = std::min<int64_t>(32, p_.columns - first),
            .type = p_.out.type,
            .corrected = corrections_ != nullptr,
            .scale = columns_.scale.data() + first,
            .offset = columns_.offset.data() + first,
            .zero_code = columns_.zero_code.data() + first,
            .bias = p_.bias ? columns_.bias.data() + first : nullptr};
  }

  const BlockKernels& kernels_;
  const Product& p_;
  const RowsPlan& plan_;
  const Rows& rows_;
  const ColumnParams& columns_;
  const Corrections* corrections_;
  const Axis& v_;
  const Axis& h_;
  std::vector<TapRun> runs_;
  DigitPlan digits_;
  PackedWeights weights_;
};

void run(const BlockKernels& kernels, const Product& product) {
  const RowsPlan plan = plan_rows(product);
  Workspace memory;
  const PackedRows rows(product, plan, memory);
  const ColumnParams columns(product);
  std::optional<Corrections> corrections;
  if (needs_corrections(product.a, product.b)) corrections.emplace(product);
  const Product flat = plan.gather ? gathered(product) : product;
  for (const Axis& vertical : flat.rows) {
    for (const Axis& horizontal : flat.cols) {
      Workspace phase_memory;
      Phase(kernels, flat, plan, rows.rows(), columns, corrections ? &*corrections : nullptr, vertical,
            horizontal, phase_memory)
          .run();
    }
  }
}

}  // namespace

void forward(const BlockKernels& kernels, const ConvShape& shape, const Operand& x, const Operand& w,
             const float* bias, const Output& y) {
  for (int64_t group = 0; group < shape.groups; ++group) {
    run(kernels, forward_product(shape, group, x, w, bias, y));
  }
}

void backward_data(const BlockKernels& kernels, const ConvShape& shape, const Operand& dy, const Operand& w,
                   const Output& dx) {
  for (int64_t group = 0; group < shape.groups; ++group) {
    run(kernels, backward_data_product(shape, group, dy, w, dx));
  }
}

}  // namespace bitdial::kernels::amx
