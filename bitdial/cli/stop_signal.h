#pragma once

namespace bitdial::cli {

/// Exit code of an interrupted command: what a shell reports for SIGINT.
inline constexpr int kInterrupted = 130;

/// While it lives, the first Ctrl-C (SIGINT) or SIGTERM only asks to stop; the second ends the process at
/// once.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  static bool requested();
};

}  // namespace bitdial::cli
