#pragma once

#include <cstdint>
#include <memory>

#include "bitdial/kernels/code_packing.h"
#include "bitdial/kernels/conv2d.h"

namespace bitdial::kernels {

namespace vector {
struct Engine;
struct GatherProblem;
}  // namespace vector

/// A weight as conv2d_forward and conv2d_backward_data read it. A part is some output channels.
class WeightPacking : public CodePacking {
 public:
  /// Null where the kernels of the active instruction set read nothing but the codes (depth-wise and grouped
  /// convolutions, AMX, the scalar reference), where input or output channels do not come in sixteens, and
  /// for other codes than signed bytes. The batch does not matter.
  static std::unique_ptr<WeightPacking> of(const ConvShape& shape, CodeType type);

  /// Of either direction.
  int64_t bytes() const { return elements_; }
  /// bytes() each, aligned to 64.
  void write_to(void* forward, void* backward_data) {
    forward_ = forward;
    backward_data_ = backward_data;
  }

  int64_t elements() const override { return elements_; }
  int64_t parts() const override;
  Part part(int64_t index) const override;
  void pack(int64_t index, int64_t first, int64_t last, const void* codes) const override;

 private:
  WeightPacking(const vector::Engine& engine, const ConvShape& shape);

  const vector::Engine& engine_;
  std::shared_ptr<vector::GatherProblem> problems_[2];  // FPROP, BPROP
  int64_t elements_ = 0, channels_ = 0;
  void* forward_ = nullptr;
  void* backward_data_ = nullptr;
};

}  // namespace bitdial::kernels
