#pragma once

#include <cstdint>
#include <vector>

#include "bitdial/kernels/amx/block.h"
#include "bitdial/kernels/amx/portable/product.h"
#include "bitdial/kernels/axis.h"
#include "bitdial/kernels/workspace.h"

/// Operands of the weight gradient dw[k, r, s, c] = sum x * dy, laid out so that a step of a tile reduces
/// over 64 images at one pixel, or over 64 neighbours along a fused axis. A tap is only another address in X.
namespace bitdial::kernels::amx {

/// One group of the weight gradient.
struct GradientProblem {
  ConvShape shape;
  int64_t group = 0;
  Operand x, dy;

  int64_t depth() const { return shape.in_channels / shape.groups; }     ///< c
  int64_t columns() const { return shape.out_channels / shape.groups; }  ///< k
  const uint8_t* x_row(int64_t n, int64_t h, int64_t w) const {
    return code_address(
        x, ((n * shape.in_height + h) * shape.in_width + w) * shape.in_channels + group * depth());
  }
  const uint8_t* dy_row(int64_t n, int64_t oh, int64_t ow) const {
    return code_address(dy, ((n * shape.out_height() + oh) * shape.out_width() + ow) * shape.out_channels +
                                group * columns());
  }
};

/// A reduction over some images, visited in lines (image rows): both operands packed.
class Reduction {
 public:
  virtual ~Reduction() = default;
  Reduction() = default;
  Reduction(const Reduction&) = delete;
  Reduction& operator=(const Reduction&) = delete;

  virtual int64_t lines() const = 0;
  /// Bytes of both operands that one line reads.
  virtual int64_t line_bytes() const = 0;
  /// An upper bound of the steps of one line.
  virtual int64_t line_steps() const = 0;
  /// Strides of a block; tiles in use are left to the caller.
  virtual BlockGeometry geometry() const = 0;
  /// Appends the runs of tap (r, s) on a line for 32 channels of X and 32 of dY.
  virtual void add_runs(int64_t line, int64_t r, int64_t s, int64_t depth_block, int64_t column_block,
                        std::vector<Run>& runs) const = 0;
};

/// 64 images at one pixel. X: [images/64][h][w][c/16][16][64], dY: [images/64][oh][ow][k/16][16 groups of
/// 4][16][4]. Images behind the last one are zeros.
class ImageReduction final : public Reduction {
 public:
  ImageReduction(const GradientProblem& problem, int64_t first_image, int64_t images, Workspace& memory);
  int64_t lines() const override;
  int64_t line_bytes() const override;
  int64_t line_steps() const override;
  BlockGeometry geometry() const override;
  void add_runs(int64_t line, int64_t r, int64_t s, int64_t depth_block, int64_t column_block,
                std::vector<Run>& runs) const override;

 private:
  void pack_x(const GradientProblem& problem, int64_t first_image, int64_t images);
  void pack_dy(const GradientProblem& problem, int64_t first_image, int64_t images);

  AxisShape v_, h_;
  int64_t image_blocks_, depth_tiles_, column_tiles_, x_plane_, dy_plane_;
  uint8_t* x_ = nullptr;
  uint8_t* dy_ = nullptr;
};

/// Fewer than 64 images: 64 neighbours along the fused axis (width, image) of one image row, or of all image
/// rows behind each other when the rows are short. X: [row][width phase][c][(column, image)] with zeros for
/// the columns outside the image; dY: [row][(column, image)/64][k/16][16 groups of 4][16][4] with zeros
/// behind the last column. With a stride, the columns of X that one tap reads lie next to each other in their
/// phase.
class FusedReduction final : public Reduction {
 public:
  FusedReduction(const GradientProblem& problem, int64_t first_image, int64_t images, Workspace& memory);
  int64_t lines() const override;
  int64_t line_bytes() const override;
  int64_t line_steps() const override;
  BlockGeometry geometry() const override;
  void add_runs(int64_t line, int64_t r, int64_t s, int64_t depth_block, int64_t column_block,
                std::vector<Run>& runs) const override;

 private:
  /// One axis of X as the taps see it: coordinate j * stride + phase, j from -before on.
  struct PhasedAxis {
    PhasedAxis(const AxisShape& shape, bool fused);
    int64_t stride = 1, before = 0, size = 1;
    std::vector<int64_t> phases;           ///< that any tap reads
    std::vector<int64_t> phase_of, start;  ///< by tap: index into phases, first j + before
  };
  void pack_x(const GradientProblem& problem, int64_t first_image);
  void pack_dy(const GradientProblem& problem, int64_t first_image);

  AxisShape v_, h_;
  bool all_rows_;
  PhasedAxis rows_, cols_;
  int64_t images_, depth_tiles_, column_tiles_;
  int64_t chunks_ = 0;  ///< of 64 along a line
  int64_t x_positions_ = 0, x_row_ = 0, x_plane_ = 0, dy_plane_ = 0;
  uint8_t* x_ = nullptr;
  uint8_t* dy_ = nullptr;
};

}  // namespace bitdial::kernels::amx
