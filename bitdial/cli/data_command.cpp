#include "bitdial/cli/data_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>

#include "bitdial/cli/stop_signal.h"
#include "bitdial/cli/table.h"
#include "bitdial/core/error.h"
#include "bitdial/core/suggest.h"
#include "bitdial/data/dataset.h"
#include "bitdial/data/image_file.h"
#include "bitdial/data/shapes.h"

namespace bitdial::cli {

namespace {

namespace fs = std::filesystem;
using data::DownloadProgress;
using std::chrono::steady_clock;

constexpr double kMegabyte = 1e6;
constexpr int kBarWidth = 24;
constexpr std::chrono::milliseconds kRedraw{100};

const char* verb(DownloadProgress::Stage stage) {
  switch (stage) {
    case DownloadProgress::Stage::kDownload:
      return "downloading";
    case DownloadProgress::Stage::kCheck:
      return "checking";
    case DownloadProgress::Stage::kUnpack:
      return "unpacking";
  }
  return "";
}

double megabytes(int64_t bytes) { return static_cast<double>(bytes) / kMegabyte; }

// Shows a download: one redrawn line per file and stage on a terminal, a line per tenth elsewhere.
class DownloadDisplay {
 public:
  explicit DownloadDisplay(std::FILE* out) : out_(out), live_(isatty(fileno(out)) != 0) {}
  ~DownloadDisplay() { finish_line(); }
  DownloadDisplay(const DownloadDisplay&) = delete;
  DownloadDisplay& operator=(const DownloadDisplay&) = delete;

  void show(const DownloadProgress& progress) {
    const bool fresh = progress.stage != stage_ || progress.file != file_;
    if (fresh) begin(progress);
    const bool completed = progress.total > 0 && progress.done >= progress.total && done_ < progress.total;
    live_ ? redraw(progress, fresh || completed) : print_tenths(progress, fresh);
    done_ = progress.done;
  }

  void finish_line() {
    if (live_ && drawn_) fmt::print(out_, "\n");
    drawn_ = false;
  }

 private:
  void begin(const DownloadProgress& progress) {
    finish_line();
    stage_ = progress.stage;
    file_ = progress.file;
    tenth_ = -1;
    started_ = steady_clock::now();
    first_ = progress.done;
    done_ = 0;
  }

  void redraw(const DownloadProgress& progress, bool now) {
    if (!now && steady_clock::now() - drawn_at_ < kRedraw) return;
    drawn_at_ = steady_clock::now();
    drawn_ = true;
    fmt::print(out_, "\r\033[K{} {} {}", verb(stage_), file_, amount(progress));
    if (progress.total > 0) {
      const auto filled =
          static_cast<size_t>(kBarWidth * std::min(progress.done, progress.total) / progress.total);
      fmt::print(out_, " [{}{}]", std::string(filled, '#'), std::string(kBarWidth - filled, '.'));
    }
    if (stage_ == DownloadProgress::Stage::kDownload) fmt::print(out_, "{}", speed(progress));
    std::fflush(out_);
  }

  void print_tenths(const DownloadProgress& progress, bool fresh) {
    const int tenth = progress.total > 0 ? static_cast<int>(10 * progress.done / progress.total) : 0;
    const bool small = progress.total < static_cast<int64_t>(kMegabyte);
    if (!fresh && (tenth <= tenth_ || small)) return;
    tenth_ = tenth;
    fmt::print(out_, "{} {} {}\n", verb(stage_), file_, amount(progress));
    std::fflush(out_);
  }

  static std::string amount(const DownloadProgress& progress) {
    if (progress.total == 0) return fmt::format("{:.1f} MB", megabytes(progress.done));
    return fmt::format("{:.1f} of {:.1f} MB", megabytes(progress.done), megabytes(progress.total));
  }

  std::string speed(const DownloadProgress& progress) const {
    const double seconds = std::chrono::duration<double>(steady_clock::now() - started_).count();
    if (seconds < 0.5 || progress.done <= first_) return {};
    const double rate = static_cast<double>(progress.done - first_) / seconds;
    std::string text = fmt::format(" {:.1f} MB/s", rate / kMegabyte);
    if (progress.total > 0)
      text += fmt::format(", {:.0f} s left", static_cast<double>(progress.total - progress.done) / rate);
    return text;
  }

  std::FILE* out_;
  bool live_;
  bool drawn_ = false;
  DownloadProgress::Stage stage_ = DownloadProgress::Stage::kDownload;
  std::string file_;
  int tenth_ = -1;
  int64_t first_ = 0;  // bytes that were there before
  int64_t done_ = 0;   // at the last call
  steady_clock::time_point started_;
  steady_clock::time_point drawn_at_;
};

const data::DatasetSource& source_of(const std::string& name) {
  require(data::needs_directory(name), "data", "\"{}\" is generated, there is nothing to download", name);
  require(name != "image-folder", "data",
          "\"image-folder\" reads your own images, there is nothing to download");
  require(name != "emnist", "data", "NIST offers \"emnist\" as an archive to be fetched by hand (gzip.zip)");
  std::vector<std::string> known;
  for (const auto& source : data::dataset_sources()) known.push_back(source.name);
  require(std::find(known.begin(), known.end(), name) != known.end(), "data", "unknown data set \"{}\"{}",
          name, suggestion(name, known));
  return data::dataset_source(name);
}

std::string origin(const std::string& name) {
  if (name == "shapes") return "generated";
  if (name == "image-folder") return "your own images";
  if (name == "emnist") return "NIST, by hand";
  for (const auto& file : data::dataset_source(name).files) {
    if (!file.urls.empty()) return file.urls.front().substr(0, file.urls.front().rfind('/'));
  }
  return "";
}

std::string description(const std::string& name) {
  if (name == "shapes") return "Outlines in clutter: colour images of 32x32, 10 classes";
  if (name == "image-folder") return "PNG and JPEG files in one folder per class";
  if (name == "emnist") return "EMNIST, balanced: 112 800 + 18 800 grey images of 28x28, 47 classes";
  return data::dataset_source(name).description;
}

void print_list() {
  Table table({"data set", "what", "from"});
  for (const std::string& name : data::dataset_names()) table.add({name, description(name), origin(name)});
  fmt::print("{}\n`bitdial data get NAME --dir D` downloads one.\n", table.text());
}

std::vector<int64_t> class_counts(const data::Dataset& dataset) {
  std::vector<int64_t> counts(static_cast<size_t>(dataset.classes()));
  for (int64_t i = 0; i < dataset.size(); ++i) ++counts[static_cast<size_t>(dataset.label(i))];
  return counts;
}

void print_info(const std::string& name, const fs::path& dir) {
  const auto train = data::open_dataset(name, dir, data::Split::kTrain);
  const auto test = data::open_dataset(name, dir, data::Split::kTest);
  const data::ImageShape shape = train->shape();
  fmt::print("{}: {} training and {} test images of {}x{}x{} (height x width x channels), {} classes\n\n",
             name, grouped(train->size()), grouped(test->size()), shape.height, shape.width, shape.channels,
             train->classes());
  Table table({"class", "name", "training", "test"});
  const auto names = train->class_names();
  const auto train_counts = class_counts(*train);
  const auto test_counts = class_counts(*test);
  for (size_t c = 0; c < names.size(); ++c) {
    table.add({std::to_string(c), names[c], grouped(train_counts[c]), grouped(test_counts[c])});
  }
  fmt::print("{}", table.text());
}

struct DataArguments {
  std::string name;
  std::string dir = "data";
  std::string out;
  bool test = false;
  int64_t rows = 8;
  int64_t zoom = 2;
};

void add_name_and_dir(CLI::App* command, const std::shared_ptr<DataArguments>& arguments) {
  command->add_option("NAME", arguments->name, "A data set of `bitdial data list`")->required();
  command->add_option("--dir", arguments->dir, "The folder of the data set, or the one above it")
      ->capture_default_str();
}

void add_get(CLI::App* data) {
  const auto arguments = std::make_shared<DataArguments>();
  CLI::App* get = data->add_subcommand("get", "Download a data set, check and unpack it");
  add_name_and_dir(get, arguments);
  get->callback([arguments] {
    get_dataset(source_of(arguments->name), arguments->dir, stderr);
    print_info(arguments->name, arguments->dir);  // reads every file: what was unpacked is usable
  });
}

void add_show(CLI::App* data) {
  const auto arguments = std::make_shared<DataArguments>();
  CLI::App* show = data->add_subcommand("show", "Draw samples into a PNG file, one column per class");
  add_name_and_dir(show, arguments);
  show->add_option("--out", arguments->out, "The PNG file to write")->required();
  show->add_flag("--test", arguments->test, "Test images instead of training images");
  show->add_option("--rows", arguments->rows, "Images per class")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  show->add_option("--zoom", arguments->zoom, "Enlargement")->check(CLI::Range(1, 16))->capture_default_str();
  show->callback([arguments] {
    const auto split = arguments->test ? data::Split::kTest : data::Split::kTrain;
    const auto dataset = data::open_dataset(arguments->name, arguments->dir, split);
    data::write_png(arguments->out, data::sample_sheet(*dataset, arguments->rows, arguments->zoom));
  });
}

}  // namespace

void get_dataset(const data::DatasetSource& source, const fs::path& dir, std::FILE* out,
                 const data::DownloadOptions& options) {
  const StopSignal stop;
  DownloadDisplay display(out);
  data::DownloadResult result{};
  try {
    result = data::download(
        source, dir,
        [&](const DownloadProgress& progress) {
          display.show(progress);
          return !StopSignal::requested();
        },
        options);
  } catch (const Error&) {
    if (!StopSignal::requested()) throw;
    display.finish_line();
    fmt::print(out, "interrupted; what has arrived is kept, the same command goes on\n");
    throw CLI::RuntimeError(kInterrupted);
  }
  display.finish_line();
  const bool there = result == data::DownloadResult::kAlreadyThere;
  fmt::print(out, "{} is {} {}\n", source.name, there ? "already in" : "now in",
             (dir / source.folder).string());
}

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "List, download and look at data sets");
  data->require_subcommand(1);
  data->add_subcommand("list", "List the data sets")->callback(print_list);
  add_get(data);
  const auto arguments = std::make_shared<DataArguments>();
  CLI::App* info = data->add_subcommand("info", "Count the images and classes of a data set");
  add_name_and_dir(info, arguments);
  info->callback([arguments] { print_info(arguments->name, arguments->dir); });
  add_show(data);
}

}  // namespace bitdial::cli
