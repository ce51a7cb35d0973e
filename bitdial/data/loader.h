#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bitdial/data/augmentation.h"
#include "bitdial/data/dataset.h"

namespace bitdial::data {

struct Batch {
  int64_t size = 0;
  int64_t index = 0;          ///< within the epoch
  std::vector<float> images;  ///< size x height x width x channels (NHWC), normalised
  std::vector<int64_t> labels;
  std::vector<int64_t> samples;  ///< indices into the data set
};

struct LoaderOptions {
  int64_t batch_size = 128;
  bool shuffle = true;
  bool drop_last = false;  ///< leave out a last batch that is short
  uint64_t seed = 0;
  int workers = 1;   ///< threads beside the caller; 0 prepares batches inside next()
  int prefetch = 4;  ///< batches prepared ahead, at most
  Augmentation augmentation{};
};

/// The order in which an epoch visits `size` images: Fisher-Yates over the counter-based stream of (seed,
/// epoch).
std::vector<int64_t> epoch_order(int64_t size, uint64_t seed, int64_t epoch);

/// Prepares batches on worker threads, beside training. Content and order depend on data set, seed and epoch
/// only: the number of workers changes nothing, and a run resumes with start_epoch(epoch, batches already
/// seen). One thread drives a loader. Destroying it, or starting another epoch early, is always safe.
class Loader {
 public:
  /// Throws Error for an empty data set or options out of range.
  Loader(std::shared_ptr<const Dataset> dataset, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  int64_t batches() const;  ///< per epoch
  const Dataset& dataset() const;
  const LoaderOptions& options() const;

  /// Discards what is prepared and goes to `first_batch` of `epoch`.
  void start_epoch(int64_t epoch, int64_t first_batch = 0);

  /// The next batch; nothing after the last of the epoch, or before the first start_epoch. An error in a
  /// worker is thrown here, in place of the batch it belongs to, and ends the epoch.
  std::optional<Batch> next();

  /// Gives a used batch back, so that its memory serves a later one. Optional.
  void recycle(Batch&& batch);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace bitdial::data
