#include <algorithm>

#include "bitdial/core/error.h"
#include "bitdial/data/download.h"

namespace bitdial::data {
namespace {

RemoteFile mnist_file(const char* name, int64_t bytes, const char* sha256, const char* md5) {
  return {name,
          {std::string("https://ossci-datasets.s3.amazonaws.com/mnist/") + name,
           std::string("https://storage.googleapis.com/cvdf-datasets/mnist/") + name},
          bytes,
          sha256,
          md5};
}

RemoteFile fashion_file(const char* name, int64_t bytes, const char* sha256, const char* md5) {
  return {
      name,
      {std::string("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/") + name,
       std::string("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/") +
           name},
      bytes,
      sha256,
      md5};
}

std::vector<ExpectedFile> same_files(const std::vector<RemoteFile>& files) {
  std::vector<ExpectedFile> contents;
  for (const RemoteFile& file : files) contents.push_back({file.name, file.bytes});
  return contents;
}

DatasetSource cifar10() {
  DatasetSource source;
  source.name = "cifar10";
  source.description = "CIFAR-10: 50 000 + 10 000 colour images of 32x32, 10 classes";
  source.folder = "cifar-10-batches-bin";
  source.files = {{"cifar-10-binary.tar.gz",
                   {"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz"},
                   170052171,
                   "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                   "c32a1d4ab5d03f1284b67883e8d87530"}};
  source.unpack = true;
  source.unpacked_bytes = 184400000;
  for (const char* name : {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                           "data_batch_5.bin", "test_batch.bin"}) {
    source.contents.push_back({name, 30730000});
  }
  return source;
}

DatasetSource cifar100() {
  DatasetSource source;
  source.name = "cifar100";
  source.description = "CIFAR-100: 50 000 + 10 000 colour images of 32x32, 100 classes";
  source.folder = "cifar-100-binary";
  source.files = {{"cifar-100-binary.tar.gz",
                   {"https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                    "https://cave.cs.toronto.edu/kriz/cifar-100-binary.tar.gz"},
                   168513733,
                   "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                   "03b5dce01913d631647c71ecec9e9cb8"}};
  source.unpack = true;
  source.unpacked_bytes = 184500000;
  source.contents = {{"train.bin", 153700000}, {"test.bin", 30740000}};
  return source;
}

DatasetSource mnist() {
  DatasetSource source;
  source.name = "mnist";
  source.description = "MNIST: 60 000 + 10 000 grey images of 28x28, 10 digits";
  source.folder = "mnist";
  source.files = {mnist_file("train-images-idx3-ubyte.gz", 9912422,
                             "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                             "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                  mnist_file("train-labels-idx1-ubyte.gz", 28881,
                             "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                             "d53e105ee54ea40749a09fcbcd1e9432"),
                  mnist_file("t10k-images-idx3-ubyte.gz", 1648877,
                             "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                             "9fb629c4189551a2d022fa330f9573f3"),
                  mnist_file("t10k-labels-idx1-ubyte.gz", 4542,
                             "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                             "ec29112dd5afa0611ce80d1b7f02629c")};
  source.contents = same_files(source.files);
  return source;
}

DatasetSource fashion_mnist() {
  DatasetSource source;
  source.name = "fashion-mnist";
  source.description = "Fashion-MNIST: 60 000 + 10 000 grey images of 28x28, 10 classes";
  source.folder = "fashion-mnist";
  source.files = {fashion_file("train-images-idx3-ubyte.gz", 26421880,
                               "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                               "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                  fashion_file("train-labels-idx1-ubyte.gz", 29515,
                               "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                               "25c81989df183df01b3e8a0aad5dffbe"),
                  fashion_file("t10k-images-idx3-ubyte.gz", 4422102,
                               "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                               "bef4ecab320f06d8554ea6380940ec79"),
                  fashion_file("t10k-labels-idx1-ubyte.gz", 5148,
                               "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                               "bb300cfdad3c16e7a12a480ee83cd310")};
  source.contents = same_files(source.files);
  return source;
}

}  // namespace

const std::vector<DatasetSource>& dataset_sources() {
  static const std::vector<DatasetSource> sources{cifar10(), cifar100(), mnist(), fashion_mnist()};
  return sources;
}

const DatasetSource& dataset_source(std::string_view name) {
  std::string known;
  for (const DatasetSource& source : dataset_sources()) {
    if (source.name == name) return source;
    known += (known.empty() ? "" : ", ") + source.name;
  }
  fail("download", "no download is known for data set '{}', expected one of {}", name, known);
}

}  // namespace bitdial::data
