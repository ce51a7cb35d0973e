#pragma once

/// Runs AMX machine code on x86-64 CPUs without AMX: every such instruction raises SIGILL, and a handler
/// decodes and executes it. So the hardware kernels themselves (encodings, operand order, configuration) are
/// tested everywhere; each instruction takes about a microsecond more.
namespace bitdial::kernels::testing_support {

/// Handles the instructions for the lifetime of the object. One at a time; threads may run AMX code
/// meanwhile.
class AmxEmulator {
 public:
  AmxEmulator();
  ~AmxEmulator();
  AmxEmulator(const AmxEmulator&) = delete;
  AmxEmulator& operator=(const AmxEmulator&) = delete;

  /// Tile instructions executed since the start of the process.
  static long executed();
};

}  // namespace bitdial::kernels::testing_support
