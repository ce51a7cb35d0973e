#include "bitdial/train/progress_bar.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>

namespace bitdial::train {
namespace {

ProgressState some_state() {
  ProgressState state;
  state.epoch = 1;
  state.epochs = 10;
  state.batch = 100;
  state.batches = 391;
  state.loss = 1.23456;
  state.accuracy = 0.5678;
  state.images_per_s = 1234.4;
  state.bits_w = 8;
  state.bits_a = 8;
  state.bits_dy = 10.42;
  state.int8_macs = 0.7;
  state.int16_macs = 0.3;
  state.float_macs = 0;
  state.seconds_left = 754;
  return state;
}

// What the stream of a bar holds.
class Stream {
 public:
  Stream() : file_(std::tmpfile()) {}
  ~Stream() { std::fclose(file_); }
  std::FILE* file() const { return file_; }
  std::string text() const {
    std::fflush(file_);
    std::rewind(file_);
    std::string all;
    std::array<char, 4096> block{};
    for (size_t n = 0; (n = std::fread(block.data(), 1, block.size(), file_)) > 0;)
      all.append(block.data(), n);
    return all;
  }

 private:
  std::FILE* file_;
};

TEST(ProgressBar, ShowsEverythingOnAWideTerminal) {
  const std::string line = bar_line(some_state(), 200, false);
  for (const char* part : {"epoch 2/10", "step 100/391", "loss 1.2346", "acc 56.8%", "1234 img/s",
                           "12:34 left", "bits W 8 A 8 dY 10.4", "int8 70% int16 30% float 0%", "[######"}) {
    EXPECT_NE(line.find(part), std::string::npos) << part << " in " << line;
  }
}

// Valid UTF-8, never as wide as the terminal, at every width.
TEST(ProgressBar, FitsEveryWidth) {
  ProgressState state = some_state();
  for (const bool unicode : {false, true}) {
    for (int width = 0; width < 220; ++width) {
      for (const int64_t batch : {0, 1, 77, 390, 391, 400}) {
        state.batch = batch;
        const std::string line = bar_line(state, width, unicode);
        ASSERT_LE(display_width(line), std::max(width - 1, 0)) << line;
        ASSERT_EQ(line.find('\n'), std::string::npos);
        for (size_t i = 0; i < line.size();) {
          const auto lead = static_cast<unsigned char>(line[i]);
          const size_t bytes = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
          ASSERT_LE(i + bytes, line.size());
          for (size_t k = 1; k < bytes; ++k)
            ASSERT_EQ(static_cast<unsigned char>(line[i + k]) & 0xC0U, 0x80U);
          i += bytes;
        }
      }
    }
  }
  EXPECT_EQ(bar_line(some_state(), 80, true).find("int8"), std::string::npos) << "least important goes first";
  EXPECT_NE(bar_line(some_state(), 40, true).find("step 100/391"), std::string::npos);
}

TEST(ProgressBar, BarGrows) {
  ProgressState state = some_state();
  size_t before = 0;
  for (state.batch = 0; state.batch <= state.batches; state.batch += 23) {
    const std::string line = bar_line(state, 200, false);
    const auto filled = static_cast<size_t>(std::count(line.begin(), line.end(), '#'));
    EXPECT_GE(filled, before);
    before = filled;
  }
  EXPECT_EQ(before, 24U);
}

TEST(ProgressBar, OddNumbers) {
  ProgressState state = some_state();
  state.loss = std::numeric_limits<double>::quiet_NaN();
  state.images_per_s = 0;
  state.batches = 0;
  state.seconds_left = std::numeric_limits<double>::infinity();
  const std::string line = bar_line(state, 200, true);
  EXPECT_NE(line.find("loss not finite"), std::string::npos) << line;
  EXPECT_NE(line.find("- img/s"), std::string::npos) << line;
  EXPECT_NE(line.find("? left"), std::string::npos) << line;
}

TEST(ProgressBar, Durations) {
  EXPECT_EQ(format_duration(0), "0 s");
  EXPECT_EQ(format_duration(59.4), "59 s");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(754), "12:34");
  EXPECT_EQ(format_duration(3723), "1:02:03");
  EXPECT_EQ(format_duration(-1), "?");
}

TEST(ProgressBar, OneLinePerEpochWhenNotATerminal) {
  Stream stream;
  ProgressBar bar({.stream = stream.file(), .terminal = false, .width = {}, .unicode = false, .now = {}});
  EXPECT_FALSE(bar.live());
  for (int i = 0; i < 100; ++i) bar.update(some_state());
  EpochSummary summary;
  summary.state = some_state();
  summary.test_loss = 0.9;
  summary.test_accuracy = 0.6543;
  summary.seconds = 61;
  bar.end_epoch(summary);
  EXPECT_EQ(stream.text(),
            "epoch 2/10  loss 1.2346  accuracy 56.78%  test loss 0.9000  test accuracy 65.43%  1234 img/s  "
            "bits W 8 A 8 dY 10.4  int8 70% int16 30% float 0%  1:01  12:34 left\n");
}

TEST(ProgressBar, EpochLineNamesTheFinalPrecision) {
  EpochSummary summary;
  summary.state = some_state();
  summary.test_accuracy = 0.6543;
  EXPECT_EQ(epoch_line(summary).find("full bits"), std::string::npos);
  summary.final_accuracy = 0.7012;
  EXPECT_NE(epoch_line(summary).find("test accuracy 65.43% (70.12% at full bits)  1234 img/s"),
            std::string::npos)
      << epoch_line(summary);
}

TEST(ProgressBar, RedrawsInPlaceAndNotTooOften) {
  Stream stream;
  auto now = std::chrono::steady_clock::time_point{};
  {
    ProgressBar bar({.stream = stream.file(),
                     .terminal = true,
                     .width = [] { return 60; },
                     .unicode = true,
                     .interval = std::chrono::milliseconds(100),
                     .now = [&now] { return now; }});
    for (int i = 0; i < 1000; ++i) {  // one millisecond apart
      bar.update(some_state());
      now += std::chrono::milliseconds(1);
    }
    bar.print("a message");
    bar.update(some_state());
  }
  const std::string text = stream.text();
  const auto draws = std::count(text.begin(), text.end(), '\r');
  EXPECT_EQ(draws, 10 + 1 + 1 + 1) << "ten redraws in a second, clear, redraw, clear";
  EXPECT_NE(text.find("\r\x1b[Ka message\n"), std::string::npos);
  EXPECT_TRUE(text.ends_with("\r\x1b[K")) << "nothing is left behind";
}

}  // namespace
}  // namespace bitdial::train
