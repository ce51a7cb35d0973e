#include "bitdial/train/progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

namespace bitdial::train {
namespace {

constexpr int kDefaultWidth = 80;
constexpr int kSmallestBar = 8, kLargestBar = 24;

int terminal_width(std::FILE* stream) {
  winsize size{};
  if (::ioctl(::fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* columns = std::getenv("COLUMNS");
  const int width = columns ? std::atoi(columns) : 0;
  return width > 0 ? width : kDefaultWidth;
}

bool can_redraw(std::FILE* stream) {
  const char* terminal = std::getenv("TERM");
  return ::isatty(::fileno(stream)) == 1 && !(terminal && std::strcmp(terminal, "dumb") == 0);
}

// A program that never calls setlocale runs in the "C" locale: the environment says what the terminal shows.
bool environment_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (!value || !*value) continue;
    std::string text(value);
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text.find("utf-8") != std::string::npos || text.find("utf8") != std::string::npos;
  }
  return false;
}

std::string format_loss(double loss) {
  return std::isfinite(loss) ? fmt::format("{:.4f}", loss) : "not finite";
}

std::string format_rate(double images_per_s) {
  if (!std::isfinite(images_per_s) || images_per_s <= 0.0) return "- img/s";
  return images_per_s < 10.0 ? fmt::format("{:.1f} img/s", images_per_s)
                             : fmt::format("{:.0f} img/s", images_per_s);
}

// "W 8 A 8 dY 10.4": plain means over layers.
std::string format_bits(const ProgressState& state) {
  const auto bits = [](double value) {
    return std::fabs(value - std::round(value)) < 0.05 ? fmt::format("{:.0f}", value)
                                                       : fmt::format("{:.1f}", value);
  };
  return fmt::format("bits W {} A {} dY {}", bits(state.bits_w), bits(state.bits_a), bits(state.bits_dy));
}

std::string format_arithmetic(const ProgressState& state) {
  return fmt::format("int8 {:.0f}% int16 {:.0f}% float {:.0f}%", 100.0 * state.int8_macs,
                     100.0 * state.int16_macs, 100.0 * state.float_macs);
}

double share_done(const ProgressState& state) {
  if (state.batches <= 0) return 0.0;
  return std::clamp(static_cast<double>(state.batch) / static_cast<double>(state.batches), 0.0, 1.0);
}

// `width` columns; in Unicode the last cell grows in eighths.
std::string draw_bar(double share, int width, bool unicode) {
  static constexpr std::array<std::string_view, 8> kEighths{" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  std::string bar;
  const double cells = share * width;
  for (int i = 0; i < width; ++i) {
    const double filled = std::clamp(cells - i, 0.0, 1.0);
    if (!unicode) {
      bar += filled >= 0.5 ? '#' : '.';
    } else if (filled >= 1.0) {
      bar += "█";
    } else {
      bar += kEighths[static_cast<size_t>(filled * 8.0)];
    }
  }
  return unicode ? fmt::format("▕{}▏", bar) : fmt::format("[{}]", bar);
}

}  // namespace

int display_width(const std::string& text) {
  // Continuation bytes of UTF-8 are 10xxxxxx.
  return static_cast<int>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0.0) return "?";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60, rest = whole % 60;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, rest);
  return minutes > 0 ? fmt::format("{}:{:02}", minutes, rest) : fmt::format("{} s", rest);
}

std::string bar_line(const ProgressState& state, int width, bool unicode) {
  const std::string head = fmt::format("epoch {}/{}", state.epoch + 1, state.epochs);
  // The order in which parts are given up, last first; they are shown in this order, too.
  std::vector<std::string> parts{
      fmt::format("step {}/{}", state.batch, state.batches), "loss " + format_loss(state.loss),
      fmt::format("acc {:.1f}%", 100.0 * state.accuracy), format_rate(state.images_per_s)};
  if (state.seconds_left) parts.push_back(format_duration(*state.seconds_left) + " left");
  parts.push_back(format_bits(state));
  parts.push_back(format_arithmetic(state));

  // The last column stays free: terminals wrap when it is written.
  int left = width - 1 - display_width(head);
  if (left < 0) return {};
  std::string tail;
  for (const std::string& part : parts) {
    const int needed = display_width(part) + 2;
    if (needed > left) break;
    tail += "  " + part;
    left -= needed;
  }
  const int bar = std::min(left - 4, kLargestBar);  // two spaces and two edges
  return bar >= kSmallestBar ? head + "  " + draw_bar(share_done(state), bar, unicode) + tail : head + tail;
}

std::string epoch_line(const EpochSummary& summary) {
  const ProgressState& state = summary.state;
  std::string line = fmt::format("epoch {}/{}  loss {}  accuracy {:.2f}%", state.epoch + 1, state.epochs,
                                 format_loss(state.loss), 100.0 * state.accuracy);
  if (summary.validation_accuracy) {
    line += fmt::format("  validation accuracy {:.2f}%", 100.0 * *summary.validation_accuracy);
  }
  if (summary.test_loss) line += "  test loss " + format_loss(*summary.test_loss);
  if (summary.test_accuracy) line += fmt::format("  test accuracy {:.2f}%", 100.0 * *summary.test_accuracy);
  if (summary.final_accuracy) line += fmt::format(" ({:.2f}% at full bits)", 100.0 * *summary.final_accuracy);
  line += fmt::format("  {}  {}  {}  {}", format_rate(state.images_per_s), format_bits(state),
                      format_arithmetic(state), format_duration(summary.seconds));
  if (state.seconds_left && *state.seconds_left > 0.0)
    line += "  " + format_duration(*state.seconds_left) + " left";
  return line;
}

ProgressBar::ProgressBar(BarOptions options) : options_(std::move(options)) {
  live_ = options_.terminal ? *options_.terminal : can_redraw(options_.stream);
  unicode_ = options_.unicode ? *options_.unicode : environment_is_utf8();
  if (!options_.width) options_.width = [stream = options_.stream] { return terminal_width(stream); };
  if (!options_.now) options_.now = [] { return std::chrono::steady_clock::now(); };
}

ProgressBar::~ProgressBar() { clear(); }

void ProgressBar::update(const ProgressState& state) {
  if (!live_) return;
  const auto now = options_.now();
  if (drawn_ && now - last_ < options_.interval) return;
  last_ = now;
  draw(state);
}

void ProgressBar::end_epoch(const EpochSummary& summary) { print(epoch_line(summary)); }

void ProgressBar::print(const std::string& line) {
  clear();
  write(line + "\n");
}

void ProgressBar::clear() {
  if (!drawn_) return;
  write("\r\x1b[K");
  drawn_ = false;
}

void ProgressBar::draw(const ProgressState& state) {
  write(fmt::format("\r{}\x1b[K", bar_line(state, options_.width(), unicode_)));
  drawn_ = true;
}

// A closed pipe or full disk must not stop training: what a person watches is not what a run leaves behind.
void ProgressBar::write(const std::string& text) {
  (void)!std::fwrite(text.data(), 1, text.size(), options_.stream);
  std::fflush(options_.stream);
}

}  // namespace bitdial::train
