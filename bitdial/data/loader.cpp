#include "bitdial/data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "bitdial/core/error.h"
#include "bitdial/data/order.h"

namespace bitdial::data {
namespace {

LoaderOptions checked(const Dataset* dataset, LoaderOptions options) {
  require(dataset != nullptr, "loader", "expected a data set, got none");
  require(dataset->size() > 0, "loader", "the data set has no images");
  require(dataset->size() <= int64_t{UINT32_MAX}, "loader",
          "the data set has {} images, expected fewer than 2^32", dataset->size());
  require(options.batch_size > 0, "loader", "batch size is {}, expected at least 1", options.batch_size);
  require(options.workers >= 0 && options.workers <= 256, "loader", "{} workers, expected 0..256",
          options.workers);
  require(options.prefetch > 0, "loader", "prefetch is {} batches, expected at least 1", options.prefetch);
  require(!options.drop_last || dataset->size() >= options.batch_size, "loader",
          "batches of {} leave nothing of a data set of {} images when the short last one is dropped",
          options.batch_size, dataset->size());
  return options;
}

}  // namespace

// One epoch is a window of batches: handed out up to delivered_, being prepared or ready up to claimed_, and
// claimed_ - delivered_ <= prefetch. A batch waits in slot index % prefetch. Whatever belongs to an earlier
// generation (an epoch that was left) is dropped.
class Loader::State {
 public:
  State(std::shared_ptr<const Dataset> dataset, LoaderOptions options)
      : options_(checked(dataset.get(), std::move(options))),
        dataset_(std::move(dataset)),
        augmenter_(dataset_->shape(), options_.augmentation),
        slots_(static_cast<size_t>(options_.prefetch)) {
    const int64_t round_up = options_.drop_last ? 0 : options_.batch_size - 1;
    batches_ = (dataset_->size() + round_up) / options_.batch_size;
    claimed_ = delivered_ = batches_;
    try {
      for (int w = 0; w < options_.workers; ++w) workers_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~State() { stop(); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  int64_t batches() const { return batches_; }
  const Dataset& dataset() const { return *dataset_; }
  const LoaderOptions& options() const { return options_; }

  void start_epoch(int64_t epoch, int64_t first_batch) {
    require(epoch >= 0, "loader", "epoch is {}, expected at least 0", epoch);
    require(first_batch >= 0 && first_batch <= batches_, "loader", "first batch is {}, expected 0..{}",
            first_batch, batches_);
    auto plan = std::make_shared<Epoch>();
    plan->key = augmentation_key(options_.seed, epoch);
    if (options_.shuffle) {
      plan->order = epoch_order(dataset_->size(), options_.seed, epoch);
    } else {
      plan->order.resize(static_cast<size_t>(dataset_->size()));
      std::iota(plan->order.begin(), plan->order.end(), 0);
    }
    {
      const std::lock_guard lock(mutex_);
      epoch_ = std::move(plan);
      ++generation_;
      claimed_ = delivered_ = first_batch;
      for (Slot& slot : slots_) slot = {};
    }
    room_.notify_all();
  }

  std::optional<Batch> next() {
    std::unique_lock lock(mutex_);
    if (delivered_ == batches_) return std::nullopt;
    if (workers_.empty()) return prepare_here(lock);
    Slot& slot = slots_[static_cast<size_t>(delivered_ % options_.prefetch)];
    ready_.wait(lock, [&] { return slot.filled; });
    Slot taken = std::move(slot);
    slot = {};
    ++delivered_;
    if (taken.error) end_epoch();
    lock.unlock();
    room_.notify_one();
    if (taken.error) std::rethrow_exception(taken.error);
    return std::move(taken.batch);
  }

  void recycle(Batch&& batch) {
    const std::lock_guard lock(mutex_);
    if (spare_.size() < slots_.size() + workers_.size() + 1) spare_.push_back(std::move(batch));
  }

 private:
  struct Epoch {
    std::vector<int64_t> order;
    RandomKey key;
  };

  struct Slot {
    bool filled = false;
    Batch batch;
    std::exception_ptr error;
  };

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    room_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  // With the lock held.
  void end_epoch() {
    ++generation_;
    claimed_ = delivered_ = batches_;
    for (Slot& slot : slots_) slot = {};
  }

  // With the lock held: memory of a used batch, or none.
  Batch take_spare() {
    if (spare_.empty()) return {};
    Batch batch = std::move(spare_.back());
    spare_.pop_back();
    return batch;
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      room_.wait(lock, [&] {
        return stopping_ || (claimed_ < batches_ && claimed_ - delivered_ < options_.prefetch);
      });
      if (stopping_) return;
      const int64_t index = claimed_++;
      const uint64_t generation = generation_;
      const auto epoch = epoch_;
      Slot done;
      done.batch = take_spare();
      lock.unlock();
      try {
        fill(*epoch, index, done.batch);
      } catch (...) {
        done.error = std::current_exception();
      }
      done.filled = true;
      lock.lock();
      if (generation != generation_) continue;
      slots_[static_cast<size_t>(index % options_.prefetch)] = std::move(done);
      ready_.notify_one();
    }
  }

  std::optional<Batch> prepare_here(std::unique_lock<std::mutex>& lock) {
    const int64_t index = delivered_++;
    Batch batch = take_spare();
    try {
      fill(*epoch_, index, batch);
    } catch (...) {
      end_epoch();
      throw;
    }
    lock.unlock();
    return batch;
  }

  void fill(const Epoch& epoch, int64_t index, Batch& batch) const {
    const int64_t first = index * options_.batch_size;
    batch.index = index;
    batch.size = std::min(options_.batch_size, dataset_->size() - first);
    const int64_t elements = dataset_->shape().elements();
    batch.images.resize(static_cast<size_t>(batch.size * elements));
    batch.labels.resize(static_cast<size_t>(batch.size));
    batch.samples.assign(epoch.order.begin() + first, epoch.order.begin() + first + batch.size);
    std::vector<uint8_t> scratch(static_cast<size_t>(elements));
    for (int64_t i = 0; i < batch.size; ++i) {
      const int64_t sample = batch.samples[static_cast<size_t>(i)];
      augmenter_(*dataset_, sample, epoch.key, scratch.data(), batch.images.data() + i * elements);
      batch.labels[static_cast<size_t>(i)] = dataset_->label(sample);
    }
  }

  const LoaderOptions options_;
  const std::shared_ptr<const Dataset> dataset_;
  const Augmenter augmenter_;
  int64_t batches_ = 0;

  std::mutex mutex_;
  std::condition_variable ready_;  // a slot was filled
  std::condition_variable room_;   // a batch may be claimed, or the loader stops
  bool stopping_ = false;
  uint64_t generation_ = 0;
  int64_t claimed_ = 0;
  int64_t delivered_ = 0;
  std::shared_ptr<const Epoch> epoch_;
  std::vector<Slot> slots_;
  std::vector<Batch> spare_;
  std::vector<std::thread> workers_;
};

Loader::Loader(std::shared_ptr<const Dataset> dataset, LoaderOptions options)
    : state_(std::make_unique<State>(std::move(dataset), std::move(options))) {}
Loader::~Loader() = default;

int64_t Loader::batches() const { return state_->batches(); }
const Dataset& Loader::dataset() const { return state_->dataset(); }
const LoaderOptions& Loader::options() const { return state_->options(); }
void Loader::start_epoch(int64_t epoch, int64_t first_batch) { state_->start_epoch(epoch, first_batch); }
std::optional<Batch> Loader::next() { return state_->next(); }
void Loader::recycle(Batch&& batch) { state_->recycle(std::move(batch)); }

}  // namespace bitdial::data
