#include "bitdial/train/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "bitdial/core/error.h"
#include "bitdial/train/checkpoint_folder.h"

namespace bitdial::train {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() : folder_(fs::temp_directory_path() / fmt::format("bitdial-checkpoint-{}", ::getpid())) {
    fs::create_directories(folder_ / "checkpoints");
  }
  ~CheckpointTest() override { fs::remove_all(folder_); }
  fs::path checkpoints() const { return folder_ / "checkpoints"; }
  void touch(int64_t step) const { std::ofstream(checkpoint_file(checkpoints(), step)) << step; }

  fs::path folder_;
};

TEST_F(CheckpointTest, StoresEveryNumberExactly) {
  Checkpoint written;
  written.network.recipe = "[train]\nepochs = 3\n";
  written.network.model = "lenet5";
  written.network.classes = 10;
  written.network.in_channels = 3;
  written.network.image_size = 32;
  written.progress = {2, 5, 17, 0.1 + 0.2, 33, 640, 0.7, 1.0 / 3.0, 1, 12.5, true};
  written.schedule = {{"best", 1e-300}};
  written.session = {{"scale", 0x1.fffffep-3F}};
  written.logs = {{"metrics", 12}};
  written.policy_learning_rate = 0.1F;
  written.tensors.push_back({"model.w", DType::kUInt8, {3}, {std::byte{1}, std::byte{2}, std::byte{255}}});
  const fs::path path = checkpoint_file(checkpoints(), 17);
  write_checkpoint(path, written);

  const Checkpoint read = read_checkpoint(path);
  EXPECT_EQ(read.network.recipe, written.network.recipe);
  EXPECT_EQ(read.network.model, "lenet5");
  EXPECT_EQ(read.progress.loss_sum, 0.1 + 0.2);
  EXPECT_EQ(read.progress.best_accuracy, 1.0 / 3.0);
  EXPECT_EQ(read.progress.learning_rate, 0.7);
  EXPECT_EQ(read.progress.batch, 5);
  EXPECT_TRUE(read.progress.finished);
  EXPECT_EQ(read.schedule, written.schedule);
  EXPECT_EQ(read.session.at("scale").get<float>(), 0x1.fffffep-3F);
  EXPECT_EQ(read.logs, written.logs);
  EXPECT_EQ(read.policy_learning_rate, static_cast<double>(0.1F));
  ASSERT_EQ(read.tensors_under("model.").tensors.size(), 1U);
  EXPECT_EQ(read.tensors_under("model.").tensors[0].name, "w");
  EXPECT_TRUE(read.tensors_under("optimizer.").tensors.empty());
}

TEST_F(CheckpointTest, RefusesOtherFiles) {
  TensorFile plain;
  plain.tensors.push_back({"w", DType::kUInt8, {1}, {std::byte{1}}});
  write_safetensors(folder_ / "plain.safetensors", plain);
  EXPECT_THROW(read_checkpoint(folder_ / "plain.safetensors"), Error);
  plain.metadata["bitdial_checkpoint"] = "{\"version\": 99}";
  write_safetensors(folder_ / "newer.safetensors", plain);
  EXPECT_THROW(read_checkpoint(folder_ / "newer.safetensors"), Error);
  plain.metadata["bitdial_checkpoint"] = "{\"version\": 1";
  write_safetensors(folder_ / "damaged.safetensors", plain);
  EXPECT_THROW(read_checkpoint(folder_ / "damaged.safetensors"), Error);
}

TEST_F(CheckpointTest, KeepsTheNewestAndTheBest) {
  for (const int64_t step : {5, 10, 99'999'999, 100'000'000}) touch(step);
  mark_best(checkpoint_file(checkpoints(), 5));
  EXPECT_EQ(find_checkpoint(folder_, false), checkpoint_file(checkpoints(), 100'000'000));
  prune_checkpoints(checkpoints(), 2);
  EXPECT_EQ(list_checkpoints(checkpoints()).size(), 2U);
  EXPECT_FALSE(fs::exists(checkpoint_file(checkpoints(), 10)));
  std::string content;
  std::ifstream(find_checkpoint(folder_, true)) >> content;
  EXPECT_EQ(content, "5");
  mark_best(checkpoint_file(checkpoints(), 99'999'999));  // replaces
  std::ifstream(find_checkpoint(folder_, true)) >> content;
  EXPECT_EQ(content, "99999999");
  prune_checkpoints(checkpoints(), 0);
  EXPECT_EQ(list_checkpoints(checkpoints()).size(), 2U);
}

TEST_F(CheckpointTest, SaysWhenThereIsNone) {
  EXPECT_THROW(find_checkpoint(folder_, false), Error);
  EXPECT_THROW(find_checkpoint(folder_ / "missing", false), Error);
}

}  // namespace
}  // namespace bitdial::train
