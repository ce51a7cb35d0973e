#include "bitdial/kernels/isa.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "bitdial/core/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bitdial::kernels {
namespace {

constexpr std::array kNames = {std::pair{Isa::kScalar, std::string_view("scalar")},
                               std::pair{Isa::kAvx2, std::string_view("avx2")},
                               std::pair{Isa::kAvxVnni, std::string_view("avxvnni")},
                               std::pair{Isa::kAvx512Vnni, std::string_view("avx512vnni")},
                               std::pair{Isa::kAmx, std::string_view("amx")}};

struct CpuFeatures {
  bool avx2 = false, avxvnni = false, avx512vnni = false, amx = false;
};

#if defined(__x86_64__)
bool has_bits(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

uint64_t enabled_state() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

/// Linux grants the tile registers to a process only on request (and to the threads it starts later).
bool request_amx_permission() {
#if defined(__linux__)
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXTileData) == 0;
#else
  return false;
#endif
}

CpuFeatures detect() {
  CpuFeatures features;
  uint32_t a = 0;
  uint32_t b = 0;
  uint32_t c = 0;
  uint32_t d = 0;
  constexpr uint64_t kOsxsaveAndFma = (1U << 27) | (1U << 12);
  if (!__get_cpuid(1, &a, &b, &c, &d) || !has_bits(c, kOsxsaveAndFma)) return features;
  const uint64_t state = enabled_state();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
  const uint32_t deepest_subleaf = a;
  constexpr uint64_t kAvxState = 0x6;
  constexpr uint64_t kAvx512State = 0xE6;
  constexpr uint64_t kTileState = 0x60000;
  constexpr uint64_t kAvx2AndBmi2 = (1U << 5) | (1U << 8);
  constexpr uint64_t kAvx512FDqBwVl = (1U << 16) | (1U << 17) | (1U << 30) | (1U << 31);
  constexpr uint64_t kAvx512Vnni = 1U << 11;
  constexpr uint64_t kAmxTileInt8 = (1U << 24) | (1U << 25);
  features.avx2 = has_bits(state, kAvxState) && has_bits(b, kAvx2AndBmi2);
  features.avx512vnni = features.avx2 && has_bits(state, kAvx512State) && has_bits(b, kAvx512FDqBwVl) &&
                        has_bits(c, kAvx512Vnni);
  features.amx = features.avx512vnni && has_bits(state, kTileState) && has_bits(d, kAmxTileInt8) &&
                 request_amx_permission();
  if (deepest_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    features.avxvnni = features.avx2 && has_bits(a, 1U << 4);
  }
  return features;
}
#else
CpuFeatures detect() { return {}; }
#endif

const CpuFeatures& cpu() {
  static const CpuFeatures features = detect();
  return features;
}

Isa choose() {
  if (const char* forced = std::getenv("BITDIAL_ISA"); forced != nullptr && *forced != '\0') {
    const Isa isa = parse_isa(forced);
    require(is_available(isa), "isa", "BITDIAL_ISA={} but this CPU runs {} at most", forced,
            to_string(available_isas().back()));
    return isa;
  }
  return available_isas().back();
}

std::atomic<int> override_isa{-1};

}  // namespace

std::string_view to_string(Isa isa) {
  for (const auto& [value, name] : kNames) {
    if (value == isa) return name;
  }
  return "unknown";
}

Isa parse_isa(std::string_view name) {
  std::string known;
  for (const auto& [value, text] : kNames) {
    if (text == name) return value;
    known += known.empty() ? "" : ", ";
    known += text;
  }
  fail("isa", "unknown instruction set '{}', expected one of {}", name, known);
}

bool is_available(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return cpu().avx2;
    case Isa::kAvxVnni:
      return cpu().avxvnni;
    case Isa::kAvx512Vnni:
      return cpu().avx512vnni;
    case Isa::kAmx:
      return cpu().amx;
  }
  return false;
}

std::span<const Isa> available_isas() {
  static const std::vector<Isa> available = [] {
    std::vector<Isa> list;
    for (const auto& [isa, name] : kNames) {
      if (is_available(isa)) list.push_back(isa);
    }
    return list;
  }();
  return available;
}

Isa active_isa() {
  if (const int forced = override_isa.load(std::memory_order_relaxed); forced >= 0)
    return static_cast<Isa>(forced);
  static const Isa chosen = choose();
  return chosen;
}

ScopedIsa::ScopedIsa(Isa isa) : previous_(active_isa()) {
  require(is_available(isa), "isa", "{} cannot run on this CPU", to_string(isa));
  override_isa = static_cast<int>(isa);
}

ScopedIsa::~ScopedIsa() { override_isa = static_cast<int>(previous_); }

}  // namespace bitdial::kernels
