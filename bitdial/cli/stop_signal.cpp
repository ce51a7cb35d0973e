#include "bitdial/cli/stop_signal.h"

#include <signal.h>

#include <array>

namespace bitdial::cli {

namespace {

constexpr std::array<int, 2> kSignals{SIGINT, SIGTERM};
volatile sig_atomic_t stop_requested = 0;

void request_stop(int) { stop_requested = 1; }

}  // namespace

StopSignal::StopSignal() {
  stop_requested = 0;
  struct sigaction action {};
  action.sa_handler = request_stop;
  // Reads and writes go on; the next signal finds the default action again.
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  for (const int signal : kSignals) sigaction(signal, &action, nullptr);
}

StopSignal::~StopSignal() {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  for (const int signal : kSignals) sigaction(signal, &action, nullptr);
}

bool StopSignal::requested() { return stop_requested != 0; }

}  // namespace bitdial::cli
