#pragma once

#include <cstdint>
#include <memory>

#include "bitdial/kernels/code_packing.h"
#include "bitdial/kernels/conv2d.h"

namespace bitdial::kernels {

namespace vector {
struct Engine;
struct WeightGradientProblem;
}  // namespace vector

/// dY as conv2d_backward_weight reads it. A part is a block of images and some of their pixels.
class GradientPacking : public CodePacking {
 public:
  /// Null where the kernels of the active instruction set read nothing but the codes (depth-wise and grouped
  /// convolutions, AMX, the scalar reference), an image's elements do not come in sixteens, or they are more
  /// than 32768.
  static std::unique_ptr<GradientPacking> of(const ConvShape& shape, CodeType type);

  int64_t bytes() const { return bytes_; }
  /// bytes(), aligned to 64.
  void write_to(void* packed) { packed_ = packed; }

  int64_t elements() const override { return elements_; }
  int64_t parts() const override;
  Part part(int64_t index) const override;
  void pack(int64_t index, int64_t first, int64_t last, const void* codes) const override;
  void finish(int64_t index) const override;

 private:
  GradientPacking(const vector::Engine& engine, const ConvShape& shape, CodeType type);

  /// Images and pixels of a part.
  struct Place {
    int64_t block = 0, first_image = 0, last_image = 0, first_pixel = 0, last_pixel = 0;
  };
  Place place(int64_t index) const;

  const vector::Engine& engine_;
  std::shared_ptr<vector::WeightGradientProblem> problem_;
  int64_t elements_ = 0;
  int64_t channels_ = 0;
  int64_t pixels_ = 0;       ///< of an image
  int64_t part_pixels_ = 0;  ///< of a part
  int64_t bytes_ = 0;
  void* packed_ = nullptr;
};

}  // namespace bitdial::kernels
