#include "bitdial/data/http.h"

#include <curl/curl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>

namespace bitdial::data {
namespace {

namespace fs = std::filesystem;

constexpr long kConnectSeconds = 30;
constexpr long kRedirects = 10;

[[noreturn]] void fail_network(const std::string& url, const std::string& reason) {
  throw NetworkError(fmt::format("[download] {}: {}", url, reason));
}

// One transfer into one file. libcurl calls the static functions, which must not throw.
class Transfer {
 public:
  Transfer(const std::string& url, const fs::path& file, const FetchOptions& options,
           const std::function<bool(int64_t, int64_t)>& progress)
      : url_(url), path_(file), options_(options), progress_(progress), curl_(curl_easy_init()) {
    require(curl_ != nullptr, "download", "cannot start libcurl");
    file_.reset(std::fopen(file.c_str(), "ab"));
    require(file_ != nullptr, "download", "{}: cannot write: {}", file.string(), std::strerror(errno));
    present_ = static_cast<int64_t>(fs::file_size(file));
  }

  // True when done; false when the server refuses to go on from what is present (which is dropped then).
  bool run() {
    configure();
    const CURLcode code = curl_easy_perform(curl_.get());
    close_file();
    if (interrupted_) fail("download", "{}: interrupted; run the same command again to go on", url_);
    if (too_large_)
      fail_network(url_, fmt::format("sends more than the {} bytes expected", options_.most_bytes));
    const long status = response_code();
    if (code == CURLE_OK && status == 416 && resumed_) return drop();
    if (status >= 400 || (code == CURLE_OK && status != 200 && status != 206)) {
      fail_network(url_, fmt::format("the server answered with HTTP status {}", status));
    }
    if (code != CURLE_OK) {
      fail_network(url_, fmt::format("{} ({} bytes have arrived)",
                                     reason_[0] != '\0' ? reason_ : curl_easy_strerror(code), present_));
    }
    return true;
  }

 private:
  struct CloseFile {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  struct CloseCurl {
    void operator()(CURL* c) const { curl_easy_cleanup(c); }
  };

  void configure() {
    CURL* c = curl_.get();
    const bool local = options_.allow_local_http && url_.starts_with("http://127.0.0.1:");
    const char* protocols = local ? "http" : "https";
    curl_easy_setopt(c, CURLOPT_URL, url_.c_str());
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, protocols);
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, protocols);
    if (local) curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, kRedirects);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, static_cast<long>(options_.stall_seconds));
    curl_easy_setopt(c, CURLOPT_USERAGENT, "bitdial");
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, reason_);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, &Transfer::on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, this);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, &Transfer::on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, this);
    resumed_ = present_ > 0;
    // A range, not CURLOPT_RESUME_FROM: that one refuses servers that answer with the whole file.
    range_ = fmt::format("{}-", present_);
    if (resumed_) curl_easy_setopt(c, CURLOPT_RANGE, range_.c_str());
  }

  long response_code() const {
    long status = 0;
    curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &status);
    return status;
  }

  static size_t on_data(char* data, size_t, size_t count, void* self) {
    return static_cast<Transfer*>(self)->write(data, count);
  }

  // Keeps the bodies of good answers only; a short count makes libcurl stop.
  size_t write(const char* data, size_t count) {
    const long status = response_code();
    if (status != 200 && status != 206) return count;
    if (status == 200 && resumed_ && !restarted_) {
      restarted_ = true;
      if (ftruncate(fileno(file_.get()), 0) != 0) return note_write_error();
      present_ = 0;
    }
    if (options_.most_bytes > 0 && present_ + static_cast<int64_t>(count) > options_.most_bytes) {
      too_large_ = true;
      return 0;
    }
    if (std::fwrite(data, 1, count, file_.get()) != count) return note_write_error();
    present_ += static_cast<int64_t>(count);
    return count;
  }

  size_t note_write_error() {
    write_error_ = errno;
    return 0;
  }

  static int on_progress(void* self, curl_off_t total, curl_off_t done, curl_off_t, curl_off_t) {
    auto* transfer = static_cast<Transfer*>(self);
    if (!transfer->progress_) return 0;
    const int64_t before = transfer->resumed_ && !transfer->restarted_ ? transfer->present_ - done : 0;
    try {
      transfer->interrupted_ = !transfer->progress_(before + done, total > 0 ? before + total : 0);
    } catch (...) {
      transfer->interrupted_ = true;
    }
    return transfer->interrupted_ ? 1 : 0;
  }

  // Everything must have reached the disk: a full one may say so only now.
  void close_file() {
    if (write_error_ == 0 && (std::fflush(file_.get()) != 0 || fsync(fileno(file_.get())) != 0))
      write_error_ = errno;
    file_.reset();
    require(write_error_ == 0, "download", "{}: cannot write: {}", path_.string(),
            std::strerror(write_error_));
  }

  bool drop() {
    fs::remove(path_);
    return false;
  }

  const std::string& url_;
  const fs::path& path_;
  const FetchOptions& options_;
  const std::function<bool(int64_t, int64_t)>& progress_;
  std::unique_ptr<CURL, CloseCurl> curl_;
  std::unique_ptr<std::FILE, CloseFile> file_;
  std::string range_;
  char reason_[CURL_ERROR_SIZE] = "";
  int64_t present_ = 0;  // bytes in the file
  bool resumed_ = false;
  bool restarted_ = false;  // the server sent the whole file although a part was asked for
  bool interrupted_ = false;
  bool too_large_ = false;
  int write_error_ = 0;
};

}  // namespace

void fetch(const std::string& url, const fs::path& file, const FetchOptions& options,
           const std::function<bool(int64_t, int64_t)>& progress) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  const bool local = options.allow_local_http && url.starts_with("http://127.0.0.1:");
  require(local || url.starts_with("https://"), "download", "{}: expected an https:// address", url);
  // A second round starts from nothing, so the server has no range to refuse.
  if (Transfer(url, file, options, progress).run()) return;
  if (!Transfer(url, file, options, progress).run())
    fail_network(url, "the server answered with HTTP status 416");
}

}  // namespace bitdial::data
