#include "bitdial/train/checkpoint.h"

#include "bitdial/core/error.h"

namespace bitdial::train {

namespace {

constexpr const char* kMetadataKey = "bitdial_checkpoint";
constexpr int kVersion = 1;

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
  nlohmann::json json = checkpoint.network;
  json.update({{"version", kVersion},
               {"progress", checkpoint.progress},
               {"schedule", checkpoint.schedule},
               {"session", checkpoint.session},
               {"cost", checkpoint.cost},
               {"steps_per_epoch", checkpoint.steps_per_epoch},
               {"logs", checkpoint.logs},
               {"policy_learning_rate", nullptr}});
  if (checkpoint.policy_learning_rate) json["policy_learning_rate"] = *checkpoint.policy_learning_rate;
  TensorFile file;
  file.tensors = checkpoint.tensors;
  file.metadata[kMetadataKey] = json.dump();
  write_safetensors(path, file);
}

Checkpoint read_checkpoint(const std::filesystem::path& path) {
  return to_checkpoint(read_safetensors(path), path);
}

Checkpoint to_checkpoint(TensorFile file, const std::filesystem::path& path) {
  const auto metadata = file.metadata.find(kMetadataKey);
  require(metadata != file.metadata.end(), "checkpoint",
          "{} holds tensors but is not a checkpoint of bitdial", path.string());
  Checkpoint checkpoint;
  try {
    const nlohmann::json json = nlohmann::json::parse(metadata->second);
    const int version = json.at("version").get<int>();
    require(version == kVersion, "checkpoint", "{} has version {}, this program reads {}", path.string(),
            version, kVersion);
    json.get_to(checkpoint.network);
    json.at("progress").get_to(checkpoint.progress);
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
