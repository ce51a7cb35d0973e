#include "bitdial/cli/data_command.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <chrono>
#include <thread>

#include "../data/helpers.h"
#include "../data/http_server.h"
#include "bitdial/data/image_file.h"

namespace bitdial::cli {
namespace {

namespace fs = std::filesystem;
using data::Bytes;
using data::expect_error;

// What `bitdial ARGUMENTS` prints.
std::string run(const std::vector<std::string>& arguments) {
  CLI::App app;
  add_data_command(app);
  testing::internal::CaptureStdout();
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (...) {
    testing::internal::GetCapturedStdout();
    throw;
  }
  return testing::internal::GetCapturedStdout();
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

data::DatasetSource one_file(const data::HttpServer& server, const std::string& body) {
  data::DatasetSource source;
  source.name = "tiny";
  source.folder = "tiny";
  source.files = {{"a.bin", {server.url("/a.bin")}, static_cast<int64_t>(body.size()), "", ""}};
  source.contents = {{"a.bin", static_cast<int64_t>(body.size())}};
  return source;
}

TEST(DataCommand, ListsEveryDataSet) {
  const std::string text = run({"data", "list"});
  for (const char* name :
       {"cifar10", "cifar100", "mnist", "fashion-mnist", "emnist", "image-folder", "shapes"}) {
    expect_contains(text, name);
  }
  expect_contains(text, "https://www.cs.toronto.edu/~kriz");
}

TEST(DataCommand, InfoCountsImagesAndClasses) {
  const std::string text = run({"data", "info", "shapes"});
  expect_contains(text, "10,000 training and 2,000 test images of 32x32x3");
  expect_contains(text, "hourglass");
  expect_contains(text, "1,000");
  const data::TempDir dir;
  expect_error(
      [&] {
        run({"data", "info", "cifar10", "--dir", dir.path().string()});
      },
      dir.path().string(), "bitdial data get cifar10");
}

TEST(DataCommand, GetNamesWhatCannotBeDownloaded) {
  expect_error([] { run({"data", "get", "cifar1"}); }, "unknown data set \"cifar1\"", "cifar10");
  expect_error([] { run({"data", "get", "shapes"}); }, "is generated");
  expect_error([] { run({"data", "get", "image-folder"}); }, "your own images");
  expect_error([] { run({"data", "get", "emnist"}); }, "by hand");
  EXPECT_THROW(run({"data", "get"}), CLI::ParseError);
  EXPECT_THROW(run({"data"}), CLI::ParseError);
}

TEST(DataCommand, ShowDrawsASheet) {
  const data::TempDir dir;
  run({"data", "show", "shapes", "--test", "--rows", "2", "--zoom", "1", "--out",
       (dir / "sheet.png").string()});
  const auto sheet = data::read_image(dir / "sheet.png").image;
  EXPECT_EQ(sheet.width, 10 * 34 + 2);
  EXPECT_EQ(sheet.height, 2 * 34 + 2);
}

TEST(DataCommand, GetSaysHowFarItIs) {
  const data::TempDir dir;
  data::HttpServer server;
  const std::string body(3000000, 'x');
  server.set("/a.bin", {.body = body});
  const auto source = one_file(server, body);
  const data::DownloadOptions local{.allow_local_http = true};
  {
    std::FILE* out = std::fopen((dir / "log").c_str(), "w");
    get_dataset(source, dir / "data", out, local);
    get_dataset(source, dir / "data", out, local);
    std::fclose(out);
  }
  const Bytes bytes = data::read_back(dir / "log");
  const std::string log(bytes.begin(), bytes.end());
  expect_contains(log, "downloading a.bin 3.0 of 3.0 MB\n");
  expect_contains(log, "checking a.bin");
  expect_contains(log, "tiny is now in " + (dir / "data/tiny").string());
  expect_contains(log, "tiny is already in ");
  EXPECT_EQ(log.find('\r'), std::string::npos);
  EXPECT_LE(std::count(log.begin(), log.end(), '\n'), 2 * 11 + 2);
}

TEST(DataCommand, InterruptedGetExitsLikeTheShellSays) {
  const data::TempDir dir;
  data::HttpServer server;
  const std::string body(3000000, 'x');
  server.set("/a.bin", {.body = body, .stall = true});
  std::FILE* out = std::fopen((dir / "log").c_str(), "w");
  std::thread interrupter([&] {
    while (server.requests().empty()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ::kill(::getpid(), SIGINT);
  });
  int code = 0;
  try {
    get_dataset(one_file(server, body), dir / "data", out, {.allow_local_http = true});
  } catch (const CLI::RuntimeError& error) {
    code = error.get_exit_code();
  }
  interrupter.join();
  std::fclose(out);
  EXPECT_EQ(code, 130);
  const Bytes bytes = data::read_back(dir / "log");
  expect_contains(std::string(bytes.begin(), bytes.end()), "interrupted; what has arrived is kept");
}

TEST(DataCommand, GetRedrawsOneLineOnATerminal) {
  const data::TempDir dir;
  data::HttpServer server;
  const std::string body(100000, 'x');
  server.set("/a.bin", {.body = body});
  int controller = 0;
  int terminal = 0;
  ASSERT_EQ(openpty(&controller, &terminal, nullptr, nullptr, nullptr), 0);
  std::FILE* out = fdopen(terminal, "w");
  get_dataset(one_file(server, body), dir / "data", out, {.allow_local_http = true});
  std::fflush(out);
  std::string text;
  std::array<char, 8192> buffer{};
  while (text.find("now in") == std::string::npos) {
    const ssize_t got = read(controller, buffer.data(), buffer.size());
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  std::fclose(out);
  close(controller);
  expect_contains(text, "\r\033[Kdownloading a.bin 0.1 of 0.1 MB [########################]");
  expect_contains(text, "tiny is now in ");
}

}  // namespace
}  // namespace bitdial::cli
