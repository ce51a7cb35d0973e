#pragma once

#include <span>
#include <string_view>

/// Instruction sets that the kernels are written for, chosen once at run time.
namespace bitdial::kernels {

enum class Isa { kScalar, kAvx2, kAvxVnni, kAvx512Vnni, kAmx };

std::string_view to_string(Isa isa);   ///< "scalar", "avx2", "avxvnni", "avx512vnni", "amx"
Isa parse_isa(std::string_view name);  ///< throws Error that lists the names

/// Whether this CPU (and, for AMX, the kernel's permission) can run it.
bool is_available(Isa isa);
std::span<const Isa> available_isas();  ///< from kScalar up

/// The best available one, or what BITDIAL_ISA names; throws Error if the CPU lacks it.
Isa active_isa();

/// Of kernels that differ by the width of vectors only, the ones that `isa` runs.
template <class Kernels>
const Kernels& by_vector_width(Isa isa, const Kernels& scalar, const Kernels& avx2,
                               const Kernels& avx512vnni) {
  switch (isa) {
    case Isa::kScalar:
      return scalar;
    case Isa::kAvx2:
    case Isa::kAvxVnni:
      return avx2;
    case Isa::kAvx512Vnni:
    case Isa::kAmx:
      return avx512vnni;
  }
  return scalar;
}

/// Runs the kernels of one instruction set for the lifetime of the object (tests, benchmarks). Not
/// thread-safe.
class ScopedIsa {
 public:
  explicit ScopedIsa(Isa isa);
  ~ScopedIsa();
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

 private:
  Isa previous_;
};

}  // namespace bitdial::kernels
