#include "bitdial/train/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <span>
#include <system_error>
#include <utility>

#include "bitdial/core/atomic_file.h"
#include "bitdial/core/error.h"

namespace bitdial::train {
namespace {

// JSON has neither NaN nor infinity.
nlohmann::ordered_json finite_or_null(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

void create_folder(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail("run", "cannot create the folder {}: {}", path.string(), error.message());
}

// Whether a run left anything worth keeping. A recipe alone is what a run leaves that found no data.
bool has_started(const std::filesystem::path& path) {
  std::error_code error;
  for (const char* file : {"metrics.jsonl", "precision.jsonl"}) {
    const auto size = std::filesystem::file_size(path / file, error);
    if (!error && size > 0) return true;
  }
  const bool empty = std::filesystem::is_empty(path / "checkpoints", error);
  return !error && !empty;
}

void write_recipe(const std::filesystem::path& file, const Recipe& recipe) {
  const std::string text = to_toml(recipe);
  const std::span<const std::byte> part = std::as_bytes(std::span(text));
  write_atomically(file, std::span(&part, 1));
}

}  // namespace

nlohmann::ordered_json to_json_line(const MetricsLine& line) {
  nlohmann::ordered_json json{{"kind", line.kind == MetricsLine::Kind::kStep ? "step" : "epoch"},
                              {"epoch", line.epoch},
                              {"step", line.step},
                              {"loss", finite_or_null(line.loss)},
                              {"accuracy", finite_or_null(line.accuracy)}};
  if (line.final_loss) json["final_loss"] = finite_or_null(*line.final_loss);
  if (line.final_accuracy) json["final_accuracy"] = finite_or_null(*line.final_accuracy);
  if (line.validation_loss) json["validation_loss"] = finite_or_null(*line.validation_loss);
  if (line.validation_accuracy) json["validation_accuracy"] = finite_or_null(*line.validation_accuracy);
  json["lr"] = finite_or_null(line.lr);
  json["images_per_s"] = finite_or_null(line.images_per_s);
  json["bits_w"] = finite_or_null(line.bits_w);
  json["bits_a"] = finite_or_null(line.bits_a);
  json["bits_dy"] = finite_or_null(line.bits_dy);
  json["bits_w_by_macs"] = finite_or_null(line.bits_w_by_macs);
  json["bits_a_by_macs"] = finite_or_null(line.bits_a_by_macs);
  json["bits_dy_by_macs"] = finite_or_null(line.bits_dy_by_macs);
  json["gbitops"] = finite_or_null(line.gbitops);
  json["ratio_fw8bw8"] = finite_or_null(line.ratio_fw8bw8);
  json["ratio_float32"] = finite_or_null(line.ratio_float32);
  json["gbitops_actual"] = finite_or_null(line.gbitops_actual);
  json["ratio_float32_actual"] = finite_or_null(line.ratio_float32_actual);
  json["size_ratio"] = finite_or_null(line.size_ratio);
  json["memory_ratio"] = finite_or_null(line.memory_ratio);
  if (!line.macs_percent.empty()) json["macs_percent"] = line.macs_percent;
  return json;
}

nlohmann::ordered_json to_json_line(const PrecisionLine& line) {
  nlohmann::ordered_json json{
      {"step", line.step}, {"layer", line.layer}, {"tensor", to_string(line.tensor)}, {"bits", line.bits}};
  if (line.scale_log2) json["scale_log2"] = finite_or_null(*line.scale_log2);
  if (line.fraction_length) json["fraction_length"] = *line.fraction_length;
  json["arithmetic"] = line.arithmetic;
  json["reason"] = line.reason;
  if (!line.evidence.is_null()) json["evidence"] = line.evidence;
  return json;
}

nlohmann::ordered_json to_json_line(const GemmLine& line) {
  return {{"step", line.step},
          {"layer", line.layer},
          {"gemm", to_string(line.gemm)},
          {"arithmetic", line.arithmetic},
          {"macs", line.macs}};
}

LineFile::LineFile(std::filesystem::path path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) refuse("open");
  // Two processes that append would destroy each other's lines. File systems without locks are let through.
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(std::exchange(descriptor_, -1));
    fail("run", "{} is being written by another process", path_.string());
  }
  const off_t end = ::lseek(descriptor_, 0, SEEK_END);
  if (end < 0) refuse("open");
  length_ = end;
}

LineFile::~LineFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

LineFile::LineFile(LineFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      length_(other.length_) {}

void LineFile::append(const nlohmann::ordered_json& line) {
  // Names of layers may hold any bytes; a log must not stop training for that.
  const std::string text = line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = ::pwrite(descriptor_, text.data() + done, text.size() - done,
                                     static_cast<off_t>(length_) + static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const int reason = written < 0 ? errno : ENOSPC;
      (void)!::ftruncate(descriptor_, length_);  // takes a part of a line back
      errno = reason;
      refuse("write");
    }
    done += static_cast<size_t>(written);
  }
  length_ += static_cast<int64_t>(text.size());
}

int64_t LineFile::sync() {
  // Pipes and some file systems have nothing to flush.
  if (::fsync(descriptor_) != 0 && errno != EINVAL && errno != EROFS) refuse("flush");
  return length_;
}

void LineFile::rewind(int64_t length) {
  int64_t kept = std::min(length, length_);
  // A file that lost its end since is cut behind its last whole line.
  char last = '\n';
  while (kept > 0 && ::pread(descriptor_, &last, 1, kept - 1) == 1 && last != '\n') --kept;
  if (::ftruncate(descriptor_, kept) != 0) refuse("cut");
  length_ = kept;
}

void LineFile::refuse(const char* what) const {
  fail("run", "cannot {} {}: {}", what, path_.string(), std::strerror(errno));
}

RunDirectory::RunDirectory(std::filesystem::path path)
    : path_(std::move(path)),
      metrics_(path_ / "metrics.jsonl"),
      precision_(path_ / "precision.jsonl"),
      gemms_(path_ / "gemms.jsonl") {}

bool RunDirectory::is_run(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path / "recipe.toml", ignored);
}

RunDirectory RunDirectory::create(const std::filesystem::path& path, const Recipe& recipe) {
  require(!has_started(path), "run",
          "{0} holds a run already; choose another folder or go on with --resume {0}", path.string());
  create_folder(path);
  create_folder(path / "checkpoints");
  write_recipe(path / "recipe.toml", recipe);
  return RunDirectory(path);
}

RunDirectory RunDirectory::open(const std::filesystem::path& path) {
  require(is_run(path), "run", "{} holds no run: it has no recipe.toml", path.string());
  create_folder(path / "checkpoints");
  return RunDirectory(path);
}

void RunDirectory::replace_recipe(const Recipe& recipe) { write_recipe(recipe_file(), recipe); }

void RunDirectory::write(const MetricsLine& line) { metrics_.append(to_json_line(line)); }

void RunDirectory::write(const PrecisionLine& line) { precision_.append(to_json_line(line)); }

void RunDirectory::write(const GemmLine& line) { gemms_.append(to_json_line(line)); }

nlohmann::json RunDirectory::sync() {
  const int64_t metrics = metrics_.sync();
  const int64_t precision = precision_.sync();
  return {{"metrics_bytes", metrics}, {"precision_bytes", precision}, {"gemms_bytes", gemms_.sync()}};
}

void RunDirectory::rewind(const nlohmann::json& position) {
  metrics_.rewind(position.at("metrics_bytes").get<int64_t>());
  precision_.rewind(position.at("precision_bytes").get<int64_t>());
  gemms_.rewind(position.value("gemms_bytes", int64_t{0}));
}

}  // namespace bitdial::train
