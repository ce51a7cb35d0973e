#include "bitdial/train/checkpoint.h"

#include "bitdial/core/error.h"

namespace bitdial::train {

namespace {

constexpr const char* kMetadataKey = "bitdial_checkpoint";
constexpr int kVersion = 1;

nlohmann::json to_json(const Progress& progress) {
  return {{"epoch", progress.epoch},
          {"batch", progress.batch},
          {"step", progress.step},
          {"loss_sum", progress.loss_sum},
          {"correct", progress.correct},
          {"images", progress.images},
          {"learning_rate", progress.learning_rate},
          {"best_accuracy", progress.best_accuracy},
          {"best_epoch", progress.best_epoch},
          {"seconds", progress.seconds},
          {"finished", progress.finished}};
}

Progress progress_from(const nlohmann::json& json) {
  Progress progress;
  json.at("epoch").get_to(progress.epoch);
  json.at("batch").get_to(progress.batch);
  json.at("step").get_to(progress.step);
  json.at("loss_sum").get_to(progress.loss_sum);
  json.at("correct").get_to(progress.correct);
  json.at("images").get_to(progress.images);
  json.at("learning_rate").get_to(progress.learning_rate);
  json.at("best_accuracy").get_to(progress.best_accuracy);
  json.at("best_epoch").get_to(progress.best_epoch);
  json.at("seconds").get_to(progress.seconds);
  json.at("finished").get_to(progress.finished);
  return progress;
}

}  // namespace

TensorFile Checkpoint::tensors_under(const std::string& prefix) const {
  TensorFile file;
  for (const StoredTensor& tensor : tensors) {
    if (!tensor.name.starts_with(prefix)) continue;
    file.tensors.push_back(tensor);
    file.tensors.back().name.erase(0, prefix.size());
  }
  return file;
}

void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  nlohmann::json json{{"version", kVersion},
                      {"recipe", checkpoint.recipe},
                      {"model", checkpoint.model},
                      {"classes", checkpoint.classes},
                      {"in_channels", checkpoint.in_channels},
                      {"image_size", checkpoint.image_size},
                      {"progress", to_json(checkpoint.progress)},
                      {"schedule", checkpoint.schedule},
                      {"session", checkpoint.session},
                      {"cost", checkpoint.cost},
                      {"steps_per_epoch", checkpoint.steps_per_epoch},
                      {"logs", checkpoint.logs},
                      {"policy_learning_rate", nullptr}};
  if (checkpoint.policy_learning_rate) json["policy_learning_rate"] = *checkpoint.policy_learning_rate;
  TensorFile file;
  file.tensors = checkpoint.tensors;
  file.metadata[kMetadataKey] = json.dump();
  write_safetensors(path, file);
}

Checkpoint read_checkpoint(const std::filesystem::path& path) {
  TensorFile file = read_safetensors(path);
  const auto metadata = file.metadata.find(kMetadataKey);
  require(metadata != file.metadata.end(), "checkpoint",
          "{} holds tensors but is not a checkpoint of bitdial", path.string());
  Checkpoint checkpoint;
  try {
    const nlohmann::json json = nlohmann::json::parse(metadata->second);
    const int version = json.at("version").get<int>();
    require(version == kVersion, "checkpoint", "{} has version {}, this program reads {}", path.string(),
            version, kVersion);
    json.at("recipe").get_to(checkpoint.recipe);
    json.at("model").get_to(checkpoint.model);
    json.at("classes").get_to(checkpoint.classes);
    json.at("in_channels").get_to(checkpoint.in_channels);
    json.at("image_size").get_to(checkpoint.image_size);
    checkpoint.progress = progress_from(json.at("progress"));
    checkpoint.schedule = json.at("schedule");
    checkpoint.session = json.at("session");
    checkpoint.cost = json.value("cost", nlohmann::json());
    checkpoint.steps_per_epoch = json.value("steps_per_epoch", int64_t{0});
    checkpoint.logs = json.at("logs");
    const auto& rate = json.at("policy_learning_rate");
    if (!rate.is_null()) checkpoint.policy_learning_rate = rate.get<double>();
  } catch (const nlohmann::json::exception& error) {
    fail("checkpoint", "{} is damaged: {}", path.string(), error.what());
  }
  checkpoint.tensors = std::move(file.tensors);
  return checkpoint;
}

}  // namespace bitdial::train
