#include "bitdial/data/checksum.h"

#include <openssl/evp.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "bitdial/core/error.h"

namespace bitdial::data {
namespace {

class Digest {
 public:
  explicit Digest(const EVP_MD* kind) : context_(EVP_MD_CTX_new()) {
    // MD5 is absent where OpenSSL runs in FIPS mode.
    usable_ = context_ != nullptr && EVP_DigestInit_ex(context_.get(), kind, nullptr) == 1;
  }
  void add(const uint8_t* bytes, size_t count) {
    if (usable_) usable_ = EVP_DigestUpdate(context_.get(), bytes, count) == 1;
  }
  std::string hexadecimal() {
    uint8_t value[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (!usable_ || EVP_DigestFinal_ex(context_.get(), value, &size) != 1) return {};
    std::string text;
    for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", value[i]);
    return text;
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
  bool usable_ = false;
};

}  // namespace

Checksums file_checksums(const std::filesystem::path& file, const std::function<bool(int64_t)>& progress) {
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  const std::unique_ptr<std::FILE, Close> handle(std::fopen(file.c_str(), "rb"));
  require(handle != nullptr, "checksum", "{}: cannot open: {}", file.string(), std::strerror(errno));
  Digest sha256(EVP_sha256());
  Digest md5(EVP_md5());
  std::vector<uint8_t> buffer(size_t{1} << 20);
  int64_t done = 0;
  while (const size_t got = std::fread(buffer.data(), 1, buffer.size(), handle.get())) {
    sha256.add(buffer.data(), got);
    md5.add(buffer.data(), got);
    done += static_cast<int64_t>(got);
    require(!progress || progress(done), "checksum", "{}: interrupted", file.string());
  }
  require(std::ferror(handle.get()) == 0, "checksum", "{}: cannot read: {}", file.string(),
          std::strerror(errno));
  return {sha256.hexadecimal(), md5.hexadecimal()};
}

}  // namespace bitdial::data
