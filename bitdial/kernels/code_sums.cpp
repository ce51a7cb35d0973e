#include "bitdial/kernels/code_sums.h"

#include "bitdial/core/parallel.h"

namespace bitdial::kernels {
namespace {

/// visit(pointer to the first code), with the codes' type.
template <class Visit>
void visit_codes(const Operand& operand, int64_t index, const Visit& visit) {
  switch (operand.type) {
    case CodeType::kS8:
      return visit(static_cast<const int8_t*>(operand.codes) + index);
    case CodeType::kU8:
      return visit(static_cast<const uint8_t*>(operand.codes) + index);
    case CodeType::kS16:
      return visit(static_cast<const int16_t*>(operand.codes) + index);
    case CodeType::kU16:
      return visit(static_cast<const uint16_t*>(operand.codes) + index);
  }
}

}  // namespace

int64_t sum_codes(const Operand& operand, int64_t index, int64_t count) {
  int64_t total = 0;
  visit_codes(operand, index, [&](const auto* codes) {
    constexpr int64_t kPiece = 16384;  // of the largest code in int32
    for (int64_t first = 0; first < count; first += kPiece) {
      int32_t sum = 0;
      for (int64_t i = first; i < count && i < first + kPiece; ++i) sum += codes[i];
      total += sum;
    }
  });
  return total;
}

void add_codes(const Operand& operand, int64_t index, int64_t count, int64_t* sums) {
  visit_codes(operand, index, [&](const auto* codes) {
    for (int64_t i = 0; i < count; ++i) sums[i] += codes[i];
  });
}

std::vector<int64_t> sum_images(const Operand& operand, int64_t batch, int64_t pixels, int64_t pixel_stride,
                                int64_t first, int64_t channels) {
  std::vector<int64_t> sums(static_cast<size_t>(pixels * channels));
  parallel_for(pixels, 16, [&](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t i = begin; i < end; ++i) {
        add_codes(operand, (n * pixels + i) * pixel_stride + first, channels, sums.data() + i * channels);
      }
    }
  });
  return sums;
}

}  // namespace bitdial::kernels
