#pragma once

#include <cstdint>

namespace bitdial::kernels {

/// Codes in a second layout, in which a convolution reads them (Operand::packed): made part by part, while
/// the pass that makes the codes has them in the cache. Parts are independent.
class CodePacking {
 public:
  virtual ~CodePacking() = default;

  virtual int64_t elements() const = 0;
  virtual int64_t parts() const = 0;

  /// `count` runs of `length` elements, `stride` elements apart from element `first` on; these three are
  /// multiples of 16. Runs are packed `together` at a time.
  struct Part {
    int64_t first = 0, length = 0, count = 1, stride = 0, together = 1;
  };
  virtual Part part(int64_t index) const = 0;

  /// Packs runs [first, last), a whole number of times `together` but for the last ones. `codes` are those of
  /// the whole tensor, of which the runs must be there.
  virtual void pack(int64_t index, int64_t first, int64_t last, const void* codes) const = 0;
  /// Comes when all runs of the part are packed.
  virtual void finish(int64_t /*index*/) const {}
};

}  // namespace bitdial::kernels
