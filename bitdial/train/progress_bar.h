#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>

/// What a person watches while a network trains.
namespace bitdial::train {

struct ProgressState {
  int64_t epoch = 0;  ///< 0-based
  int64_t epochs = 1;
  int64_t batch = 0;    ///< batches of this epoch that are done
  int64_t batches = 1;  ///< per epoch
  double loss = 0.0;
  double accuracy = 0.0;  ///< 0..1
  double images_per_s = 0.0;
  double bits_w = 32.0, bits_a = 32.0, bits_dy = 32.0;
  double int8_macs = 0.0, int16_macs = 0.0, float_macs = 1.0;  ///< shares of multiply-accumulates, 0 .. 1
  std::optional<double> seconds_left;                          ///< of the whole run
};

struct EpochSummary {
  ProgressState state;
  std::optional<double> test_loss, test_accuracy;
  std::optional<double> final_accuracy;       ///< in the policy's final precision
  std::optional<double> validation_accuracy;  ///< on training images that are held out
  double seconds = 0.0;                       ///< that the epoch took
};

/// One line of at most `width` columns, most important first; parts that do not fit are left out.
std::string bar_line(const ProgressState& state, int width, bool unicode);
/// The line that stays after an epoch.
std::string epoch_line(const EpochSummary& summary);
/// "1:02:03", "2:03", "4 s".
std::string format_duration(double seconds);
/// Columns of a terminal that UTF-8 text takes (one per code point).
int display_width(const std::string& text);

struct BarOptions {
  std::FILE* stream = stderr;
  std::optional<bool> terminal;  ///< whether the stream can redraw a line; default: asks the system
  std::function<int()> width;    ///< columns; default: asks the system each time
  std::optional<bool> unicode;   ///< default: the locale's encoding is UTF-8
  std::chrono::milliseconds interval{100};                     ///< between two redraws
  std::function<std::chrono::steady_clock::time_point()> now;  ///< default: the clock
};

/// A live bar on a terminal, one line per epoch elsewhere. Used from one thread.
class ProgressBar {
 public:
  explicit ProgressBar(BarOptions options = {});
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  bool live() const { return live_; }

  /// Redraws if the last time is long enough ago.
  void update(const ProgressState& state);
  /// Replaces the bar by a line that stays.
  void end_epoch(const EpochSummary& summary);
  /// Prints any line above the bar.
  void print(const std::string& line);
  /// Removes the bar.
  void clear();

 private:
  void draw(const ProgressState& state);
  void write(const std::string& text);

  BarOptions options_;
  bool live_ = false;
  bool unicode_ = false;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace bitdial::train
