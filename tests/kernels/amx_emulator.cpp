#include "tests/kernels/amx_emulator.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>

namespace bitdial::kernels::testing_support {
namespace {

struct Tiles {
  bool configured = false;
  uint8_t rows[8];
  uint16_t bytes_per_row[8];
  uint8_t data[8][16][64];
};
thread_local Tiles tiles;
std::atomic<long> executed_count{0};
struct sigaction previous_action;

[[noreturn]] void stop(const char* message) {
  const ssize_t written = write(STDERR_FILENO, message, std::strlen(message));
  _exit(written > 0 ? 70 : 71);
}

void check(bool condition, const char* message) {
  if (!condition) stop(message);
}

/// A three-byte VEX instruction of map 0F38 with its operands (Intel SDM, volume 2, sections 2.3 and 3.1).
struct Instruction {
  uint8_t opcode = 0;
  int prefix = 0;  ///< 0 none, 1 66, 2 F3, 3 F2
  int reg = 0, rm = 0, vvvv = 0;
  bool memory = false;
  uint8_t* base = nullptr;  ///< address without index
  int64_t index = 0;        ///< scaled
  int length = 0;
};

int64_t general_register(const ucontext_t& context, int number) {
  constexpr int kOrder[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return context.uc_mcontext.gregs[kOrder[number]];
}

int64_t displacement(const uint8_t*& code, int bytes) {
  int64_t value = 0;
  if (bytes == 1) value = static_cast<int8_t>(*code);
  if (bytes == 4) {
    int32_t wide = 0;
    std::memcpy(&wide, code, 4);
    value = wide;
  }
  code += bytes;
  return value;
}

void decode_memory(const uint8_t*& code, int mod, int extend_index, int extend_base,
                   const ucontext_t& context, Instruction& instruction) {
  int64_t address = 0;
  int displacement_bytes = mod == 1 ? 1 : mod == 2 ? 4 : 0;
  bool relative = false;
  if (instruction.rm == 4) {
    const uint8_t sib = *code++;
    const int base = sib & 7;
    const int index = (sib >> 3 & 7) | extend_index;
    if (index != 4) instruction.index = general_register(context, index) * (1 << (sib >> 6));
    if (base == 5 && mod == 0) {
      displacement_bytes = 4;
    } else {
      address = general_register(context, base | extend_base);
    }
  } else if (instruction.rm == 5 && mod == 0) {
    displacement_bytes = 4;
    relative = true;
  } else {
    address = general_register(context, instruction.rm | extend_base);
  }
  address += displacement(code, displacement_bytes);
  if (relative) address += reinterpret_cast<int64_t>(code);
  instruction.base = reinterpret_cast<uint8_t*>(address);
}

bool decode(const uint8_t* start, const ucontext_t& context, Instruction& instruction) {
  const uint8_t* code = start;
  if (code[0] != 0xC4 || (code[1] & 0x1F) != 2) return false;
  const int extend_index = code[1] & 0x40 ? 0 : 8;
  const int extend_base = code[1] & 0x20 ? 0 : 8;
  instruction.prefix = code[2] & 3;
  instruction.vvvv = ~(code[2] >> 3) & 15;
  instruction.opcode = code[3];
  const uint8_t modrm = code[4];
  code += 5;
  instruction.reg = modrm >> 3 & 7;
  instruction.rm = modrm & 7;
  instruction.memory = modrm >> 6 != 3;
  if (instruction.memory) {
    decode_memory(code, modrm >> 6, extend_index, extend_base, context, instruction);
  }
  instruction.length = static_cast<int>(code - start);
  return true;
}

void configure(const Instruction& i) {
  const uint8_t* memory = i.base + i.index;
  check(memory[0] == 1, "AMX emulator: palette is not 1\n");
  for (int k = 1; k < 16; ++k) check(memory[k] == 0, "AMX emulator: reserved configuration bytes are set\n");
  for (int t = 0; t < 8; ++t) {
    std::memcpy(&tiles.bytes_per_row[t], memory + 16 + 2 * t, 2);
    tiles.rows[t] = memory[48 + t];
    check(tiles.rows[t] <= 16 && tiles.bytes_per_row[t] <= 64, "AMX emulator: impossible tile shape\n");
  }
  std::memset(tiles.data, 0, sizeof tiles.data);
  tiles.configured = true;
}

void check_tile(int tile) {
  check(tiles.configured && tile < 8 && tiles.rows[tile] > 0, "AMX emulator: tile is not configured\n");
}

void move(const Instruction& i, bool load) {
  check_tile(i.reg);
  for (int row = 0; row < tiles.rows[i.reg]; ++row) {
    uint8_t* memory = i.base + row * i.index;
    if (load) {
      std::memcpy(tiles.data[i.reg][row], memory, tiles.bytes_per_row[i.reg]);
    } else {
      std::memcpy(memory, tiles.data[i.reg][row], tiles.bytes_per_row[i.reg]);
    }
  }
}

/// reg += rm (rows) times vvvv (columns); the prefix says which of the two are signed.
void dot(const Instruction& i) {
  check_tile(i.reg);
  check_tile(i.rm);
  check_tile(i.vvvv);
  const bool signed_a = i.prefix == 3 || i.prefix == 2;
  const bool signed_b = i.prefix == 3 || i.prefix == 1;
  const auto widen = [](bool is_signed, uint8_t byte) {
    return is_signed ? static_cast<int8_t>(byte) : int{byte};
  };
  for (int m = 0; m < tiles.rows[i.reg]; ++m) {
    uint32_t sums[16];
    std::memcpy(sums, tiles.data[i.reg][m], sizeof sums);
    for (int k = 0; k < tiles.bytes_per_row[i.rm] / 4; ++k) {
      for (int n = 0; n < tiles.bytes_per_row[i.reg] / 4; ++n) {
        for (int b = 0; b < 4; ++b) {
          sums[n] += static_cast<uint32_t>(widen(signed_a, tiles.data[i.rm][m][4 * k + b]) *
                                           widen(signed_b, tiles.data[i.vvvv][k][4 * n + b]));
        }
      }
    }
    std::memcpy(tiles.data[i.reg][m], sums, sizeof sums);
  }
}

bool execute(const Instruction& i) {
  if (i.opcode == 0x49 && i.prefix == 0 && i.memory) {
    configure(i);
  } else if (i.opcode == 0x49 && i.prefix == 0) {
    tiles.configured = false;
  } else if (i.opcode == 0x49 && i.prefix == 3 && !i.memory) {
    check_tile(i.reg);
    std::memset(tiles.data[i.reg], 0, sizeof tiles.data[i.reg]);
  } else if (i.opcode == 0x4B && i.prefix >= 2 && i.memory) {
    move(i, i.prefix == 3);
  } else if (i.opcode == 0x5E && !i.memory) {
    dot(i);
  } else {
    return false;
  }
  return true;
}

void on_illegal_instruction(int, siginfo_t*, void* raw_context) {
  auto& context = *static_cast<ucontext_t*>(raw_context);
  auto& position = context.uc_mcontext.gregs[REG_RIP];
  Instruction instruction;
  if (!decode(reinterpret_cast<const uint8_t*>(position), context, instruction) || !execute(instruction)) {
    stop("AMX emulator: not an AMX instruction\n");
  }
  position += instruction.length;
  executed_count.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

AmxEmulator::AmxEmulator() {
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGILL, &action, &previous_action);
}

AmxEmulator::~AmxEmulator() { sigaction(SIGILL, &previous_action, nullptr); }

long AmxEmulator::executed() { return executed_count; }

}  // namespace bitdial::kernels::testing_support
