#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "bitdial/core/policy.h"
#include "bitdial/train/recipe.h"

/// What a run leaves behind: recipe.toml, metrics.jsonl, precision.jsonl, gemms.jsonl, checkpoints/, and
/// quantized.safetensors where a policy quantises parameters.
namespace bitdial::train {

/// One line of metrics.jsonl. Numbers that are not finite become null.
struct MetricsLine {
  enum class Kind : uint8_t { kStep, kEpoch };
  Kind kind = Kind::kStep;
  int64_t epoch = 0;
  int64_t step = 0;
  double loss = 0.0;      ///< step: of the batch; epoch: of the test split
  double accuracy = 0.0;  ///< 0..1, of the same images
  /// Epoch: in the policy's final precision, where it has one ("final_loss", "final_accuracy").
  std::optional<double> final_loss, final_accuracy;
  /// Epoch: of training images that are held out, where there are any.
  std::optional<double> validation_loss, validation_accuracy;
  double lr = 0.0;
  double images_per_s = 0.0;
  double bits_w = 32.0, bits_a = 32.0, bits_dy = 32.0;  ///< plain means over layers
  /// The same, layers weighted by multiply-accumulates.
  double bits_w_by_macs = 32.0, bits_a_by_macs = 32.0, bits_dy_by_macs = 32.0;
  /// Analytic cost of every step up to now (cost/network_cost.h): never measured time.
  double gbitops = 0.0, ratio_fw8bw8 = 0.0, ratio_float32 = 0.0;
  double gbitops_actual = 0.0, ratio_float32_actual = 0.0;
  double size_ratio = 1.0;    ///< bits of the weights now, relative to float32
  double memory_ratio = 1.0;  ///< AdaPT's MEM up to now
  /// Percent of the multiply-accumulates of all steps up to now, by arithmetic ("int8"); absent when empty.
  std::map<std::string, double> macs_percent;
};
nlohmann::ordered_json to_json_line(const MetricsLine& line);

/// One line of precision.jsonl: a decision about one operand.
struct PrecisionLine {
  int64_t step = 0;
  std::string layer;
  TensorRole tensor = TensorRole::kWeight;
  int bits = 32;
  std::optional<double> scale_log2;
  std::optional<int> fraction_length;
  std::string arithmetic;
  std::string reason;
  nlohmann::json evidence;
};
nlohmann::ordered_json to_json_line(const PrecisionLine& line);

/// One line of gemms.jsonl: a GEMM that runs in another arithmetic from this step on.
struct GemmLine {
  int64_t step = 0;
  std::string layer;
  Gemm gemm = Gemm::kFprop;
  std::string arithmetic;
  int64_t macs = 0;  ///< of this GEMM, for one sample
};
nlohmann::ordered_json to_json_line(const GemmLine& line);

/// Appends lines to a file. A line is written whole or, after an error, not at all.
class LineFile {
 public:
  /// Opens or creates, and locks against other processes. Throws Error naming the path and the system's
  /// reason.
  explicit LineFile(std::filesystem::path path);
  ~LineFile();
  LineFile(LineFile&& other) noexcept;
  LineFile& operator=(LineFile&&) = delete;
  LineFile(const LineFile&) = delete;

  void append(const nlohmann::ordered_json& line);
  /// Flushes to the disk and returns the length in bytes.
  int64_t sync();
  /// Cuts the file to `length` bytes (as sync() returned), or to its last whole line when it is shorter.
  void rewind(int64_t length);

 private:
  [[noreturn]] void refuse(const char* what) const;

  std::filesystem::path path_;
  int descriptor_ = -1;
  int64_t length_ = 0;
};

class RunDirectory {
 public:
  /// Creates `path`, its recipe.toml and empty logs. Throws Error when it holds a run already (one
  /// that logged or saved something) or cannot be
  /// written.
  static RunDirectory create(const std::filesystem::path& path, const Recipe& recipe);

  /// Opens a run to go on with it. Throws Error when `path` holds none.
  static RunDirectory open(const std::filesystem::path& path);

  /// Whether `path` holds a run.
  static bool is_run(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path recipe_file() const { return path_ / "recipe.toml"; }
  std::filesystem::path metrics_file() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path precision_file() const { return path_ / "precision.jsonl"; }
  std::filesystem::path gemms_file() const { return path_ / "gemms.jsonl"; }
  /// Where a policy quantises parameters, at the end of the run (train/quantized_network.h).
  std::filesystem::path quantized_file() const { return path_ / "quantized.safetensors"; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }

  /// Atomic.
  void replace_recipe(const Recipe& recipe);

  void write(const MetricsLine& line);
  void write(const PrecisionLine& line);
  void write(const GemmLine& line);

  /// Flushes the logs to the disk and says how long they are. Store the answer in the checkpoint.
  nlohmann::json sync();

  /// Takes back every line that was written after the checkpoint with this answer of sync(): an interrupted
  /// run then leaves the same files as one that was not.
  void rewind(const nlohmann::json& position);

 private:
  explicit RunDirectory(std::filesystem::path path);

  std::filesystem::path path_;
  LineFile metrics_;
  LineFile precision_;
  LineFile gemms_;
};

}  // namespace bitdial::train
