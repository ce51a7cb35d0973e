#include "bitdial/train/tensor_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>

#include "bitdial/core/error.h"
#include "bitdial/train/pickle.h"

namespace bitdial::train {
namespace {

namespace fs = std::filesystem;

class TensorFileTest : public ::testing::Test {
 protected:
  TensorFileTest() : folder_(fs::temp_directory_path() / fmt::format("bitdial-tensors-{}", ::getpid())) {
    fs::create_directories(folder_);
  }
  ~TensorFileTest() override { fs::remove_all(folder_); }

  fs::path file(const std::string& name) const { return folder_ / name; }

  fs::path write(const std::string& name, const std::string& content) const {
    std::ofstream(file(name), std::ios::binary) << content;
    return file(name);
  }

  fs::path folder_;
};

template <class T>
StoredTensor tensor(const std::string& name, DType type, std::vector<int64_t> shape,
                    const std::vector<T>& values) {
  StoredTensor stored{name, type, std::move(shape), {}};
  stored.data.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(stored.data.data(), values.data(), stored.data.size());
  return stored;
}

TensorFile example() {
  TensorFile file;
  file.tensors.push_back(tensor<float>("conv.weight", DType::kFloat32, {2, 3}, {1, -2, 3.5F, 4, 5, -0.0F}));
  file.tensors.push_back(tensor<int64_t>("bn.num_batches_tracked", DType::kInt64, {}, {1234567890123}));
  file.tensors.push_back(tensor<float>("empty", DType::kFloat32, {0, 4}, {}));
  file.tensors.push_back(tensor<int8_t>("codes", DType::kInt8, {3}, {-128, 0, 127}));
  return file;
}

void expect_equal(const TensorFile& found, const TensorFile& expected) {
  ASSERT_EQ(found.tensors.size(), expected.tensors.size());
  for (const StoredTensor& want : expected.tensors) {
    const StoredTensor* got = found.find(want.name);
    ASSERT_NE(got, nullptr) << want.name;
    EXPECT_EQ(got->type, want.type) << want.name;
    EXPECT_EQ(got->shape, want.shape) << want.name;
    EXPECT_EQ(got->data, want.data) << want.name;
  }
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string safetensors_bytes(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header + data;
}

TEST_F(TensorFileTest, SafetensorsRoundTrip) {
  TensorFile written = example();
  written.metadata["note"] = "a \"quoted\" text";
  write_safetensors(file("a.safetensors"), written);
  const TensorFile read = read_safetensors(file("a.safetensors"));
  expect_equal(read, written);
  EXPECT_EQ(read.metadata, written.metadata);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1)
      << "a temporary file is left";
}

TEST_F(TensorFileTest, StateDictRoundTrip) {
  write_state_dict(file("a.pt"), example());
  expect_equal(read_state_dict(file("a.pt")), example());
  expect_equal(read_weights(file("a.pt")), example());
}

TEST_F(TensorFileTest, WritesTheFormatOfTheExtension) {
  write_weights(file("a.safetensors"), example());
  expect_equal(read_weights(file("a.safetensors")), example());
  EXPECT_NE(error_of([&] { write_weights(file("a.bin"), example()); }).find(".safetensors, .pt or .pth"),
            std::string::npos);
}

TEST_F(TensorFileTest, RefusesMalformedSafetensors) {
  const std::string good = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string data(8, '\0');
  EXPECT_NO_THROW(read_safetensors(write("good", safetensors_bytes(good, data))));
  struct Case {
    const char* what;
    std::string content;
    const char* message;
  };
  const Case cases[] = {
      {"too short", "1234", "4 bytes"},
      {"header longer than the file", safetensors_bytes(good, data).substr(0, 20), "truncated"},
      {"not JSON", safetensors_bytes("{\"w\":", data), "not a JSON object"},
      {"data cut off", safetensors_bytes(good, data.substr(0, 4)), "truncated"},
      {"negative offset",
       safetensors_bytes(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", data), "lies at"},
      {"huge offset",
       safetensors_bytes(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})",
                         data),
       "lies at"},
      {"reversed offsets",
       safetensors_bytes(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", data), "lies at"},
      {"size does not fit",
       safetensors_bytes(R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", data), "needs 12"},
      {"overflowing shape",
       safetensors_bytes(R"({"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})",
                         data),
       "impossible shape"},
      {"negative size", safetensors_bytes(R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", data),
       "impossible shape"},
      {"unknown type", safetensors_bytes(R"({"w":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}})", data),
       "F99"},
      {"no offsets", safetensors_bytes(R"({"w":{"dtype":"F32","shape":[2]}})", data), "no valid dtype"},
      {"overlap",
       safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                         R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                         data),
       "expected 8"},
      {"unused data", safetensors_bytes(good, data + data), "tensors need 8"},
      {"metadata is not text", safetensors_bytes(R"({"__metadata__":{"a":1}})", ""), "not a text"},
  };
  for (const Case& wrong : cases) {
    const std::string error = error_of([&] { read_safetensors(write("wrong", wrong.content)); });
    EXPECT_NE(error.find(wrong.message), std::string::npos) << wrong.what << ": " << error;
    EXPECT_NE(error.find("wrong"), std::string::npos) << "names the file: " << error;
  }
}

TEST_F(TensorFileTest, RefusesWhatIsNoStateDict) {
  EXPECT_NE(error_of([&] { read_weights(file("missing.pt")); }).find("cannot read"), std::string::npos);
  EXPECT_NE(error_of([&] { read_weights(write("old.pt", "\x80\x02\x8a\x0al\xfc")); }).find("before 1.6"),
            std::string::npos);
  write_state_dict(file("a.pt"), example());
  std::ifstream stream(file("a.pt"), std::ios::binary);
  std::stringstream content;
  content << stream.rdbuf();
  const std::string bytes = content.str();
  for (const size_t length : {bytes.size() / 3, bytes.size() - 30}) {
    EXPECT_THROW(read_state_dict(write("cut.pt", bytes.substr(0, length))), Error) << length;
  }
}

// Damaged anywhere, a pickle gives an Error or a value: never a crash (the sanitizer build watches).
TEST(Pickle, SurvivesDamage) {
  PickleWriter writer;
  writer.global("collections", "OrderedDict");
  writer.empty_tuple();
  writer.reduce();
  writer.mark();
  writer.text("a");
  writer.integer(-5);
  writer.set_items();
  const std::string good = writer.finish();
  const Pickle pickle = Pickle::parse(std::as_bytes(std::span(good)));
  ASSERT_EQ(pickle.root().entries.size(), 1U);
  EXPECT_EQ(pickle.root().entries[0].second->integer, -5);
  for (size_t position = 0; position < good.size(); ++position) {
    for (int value = 0; value < 256; ++value) {
      std::string bad = good;
      bad[position] = static_cast<char>(value);
      try {
        Pickle::parse(std::as_bytes(std::span(bad)));
      } catch (const Error&) {
      }
    }
  }
}

/// A Python that imports torch, or nothing.
std::string python_with_torch() {
  for (const std::string& python :
       {std::string(BITDIAL_SOURCE_DIR) + "/.venv/bin/python3", std::string("python3")}) {
    if (std::system((python + " -c 'import torch' >/dev/null 2>&1").c_str()) == 0) return python;
  }
  return {};
}

TEST_F(TensorFileTest, ExchangesStateDictsWithPython) {
  const std::string python = python_with_torch();
  if (python.empty()) GTEST_SKIP() << "no Python that imports torch";
  write_state_dict(file("ours.pt"), example());
  write("exchange.py", R"(
import sys, torch
folder = sys.argv[1]
ours = torch.load(folder + '/ours.pt', weights_only=True)
assert list(ours) == ['conv.weight', 'bn.num_batches_tracked', 'empty', 'codes'], list(ours)
assert torch.equal(ours['conv.weight'], torch.tensor([[1, -2, 3.5], [4, 5, -0.0]]))
assert ours['bn.num_batches_tracked'].item() == 1234567890123 and ours['bn.num_batches_tracked'].dim() == 0
assert ours['empty'].shape == (0, 4) and ours['codes'].tolist() == [-128, 0, 127]
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
with torch.no_grad():
    net[0].weight.copy_(torch.arange(108.).reshape(4, 3, 3, 3))
torch.save({'epoch': 3, 'state_dict': {'module.' + k: v for k, v in net.state_dict().items()}}, folder + '/theirs.pt')
)");
  ASSERT_EQ(
      std::system(fmt::format("{} {} {}", python, file("exchange.py").string(), folder_.string()).c_str()),
      0);

  const TensorFile theirs = read_weights(file("theirs.pt"));
  EXPECT_EQ(theirs.tensors.size(), 7U);
  const StoredTensor* weight = theirs.find("0.weight");
  ASSERT_NE(weight, nullptr);
  EXPECT_EQ(weight->shape, (std::vector<int64_t>{4, 3, 3, 3}));
  std::vector<float> values(108);
  ASSERT_EQ(weight->data.size(), values.size() * sizeof(float));
  std::memcpy(values.data(), weight->data.data(), weight->data.size());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], static_cast<float>(i));
}

}  // namespace
}  // namespace bitdial::train
