#include "bitdial/data/download.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/resource.h>

#include <csignal>
#include <set>

#include "bitdial/data/archive.h"
#include "bitdial/data/checksum.h"
#include "helpers.h"
#include "http_server.h"

namespace bitdial::data {
namespace {

namespace fs = std::filesystem;

struct TarEntry {
  std::string path;
  std::string content;
  unsigned type = AE_IFREG;
  std::string link;
};

std::string make_tar(const fs::path& file, const std::vector<TarEntry>& entries) {
  archive* a = archive_write_new();
  archive_write_add_filter_gzip(a);
  archive_write_set_format_pax_restricted(a);
  EXPECT_EQ(archive_write_open_filename(a, file.c_str()), ARCHIVE_OK);
  for (const TarEntry& entry : entries) {
    archive_entry* e = archive_entry_new();
    archive_entry_set_pathname(e, entry.path.c_str());
    archive_entry_set_filetype(e, entry.type);
    archive_entry_set_perm(e, 0644);
    if (entry.type == AE_IFREG) archive_entry_set_size(e, static_cast<int64_t>(entry.content.size()));
    if (entry.type == AE_IFLNK) archive_entry_set_symlink(e, entry.link.c_str());
    if (!entry.link.empty() && entry.type == AE_IFREG) archive_entry_set_hardlink(e, entry.link.c_str());
    EXPECT_EQ(archive_write_header(a, e), ARCHIVE_OK);
    archive_write_data(a, entry.content.data(), entry.content.size());
    archive_entry_free(e);
  }
  archive_write_close(a);
  archive_write_free(a);
  const Bytes bytes = read_back(file);
  return {bytes.begin(), bytes.end()};
}

// Text that does not compress to nothing.
std::string noise(size_t size) {
  std::string text(size, ' ');
  uint32_t state = 1;
  for (char& c : text) c = static_cast<char>((state = state * 1664525U + 1013904223U) >> 24);
  return text;
}

class DownloadTest : public testing::Test {
 protected:
  DownloadTest() {
    archive_ = make_tar(dir_ / "made.tar.gz", {{"set/", "", AE_IFDIR, ""},
                                               {"set/train.bin", noise(300000), AE_IFREG, ""},
                                               {"set/test.bin", "test", AE_IFREG, ""}});
    source_.name = "tiny";
    source_.folder = "set";
    source_.unpack = true;
    source_.files = {{"set.tar.gz", {server_.url("/set.tar.gz")}, 0, "", ""}};
    source_.files[0].bytes = static_cast<int64_t>(archive_.size());
    const Checksums sums = file_checksums(dir_ / "made.tar.gz");
    source_.files[0].sha256 = sums.sha256;
    source_.files[0].md5 = sums.md5;
    source_.contents = {{"train.bin", 300000}, {"test.bin", 4}};
    source_.unpacked_bytes = 300004;
    server_.set("/set.tar.gz", {.body = archive_});
  }

  DownloadResult run(const ProgressCallback& progress = {}) const {
    return download(source_, to_, progress, {.allow_local_http = true, .stall_seconds = 1});
  }

  void expect_complete() const {
    EXPECT_EQ(fs::file_size(to_ / "set/train.bin"), 300000U);
    EXPECT_EQ(read_back(to_ / "set/test.bin"), (Bytes{'t', 'e', 's', 't'}));
    EXPECT_FALSE(fs::exists(to_ / ".tiny.download"));
  }

  void expect_nothing_half_done() const { EXPECT_FALSE(fs::exists(to_ / "set")); }

  fs::path part() const { return to_ / ".tiny.download/set.tar.gz.part"; }

  TempDir dir_;
  fs::path to_ = dir_ / "data/sub";
  HttpServer server_;
  DatasetSource source_;
  std::string archive_;
};

TEST_F(DownloadTest, PutsTheFolderInPlace) {
  std::set<DownloadProgress::Stage> stages;
  int64_t last = 0;
  const auto result = run([&](const DownloadProgress& p) {
    stages.insert(p.stage);
    if (p.stage == DownloadProgress::Stage::kDownload) {
      EXPECT_EQ(p.total, static_cast<int64_t>(archive_.size()));
      EXPECT_GE(p.done, last);
      last = p.done;
    }
    return true;
  });
  EXPECT_EQ(result, DownloadResult::kDownloaded);
  expect_complete();
  EXPECT_EQ(stages.size(), 3U);
  EXPECT_EQ(last, static_cast<int64_t>(archive_.size()));
  EXPECT_EQ(run(), DownloadResult::kAlreadyThere);
  EXPECT_EQ(server_.requests().size(), 1U);
}

TEST_F(DownloadTest, KeepsFilesThatAreNoArchives) {
  source_.unpack = false;
  source_.contents = {{"set.tar.gz", source_.files[0].bytes}};
  run();
  EXPECT_EQ(file_checksums(to_ / "set/set.tar.gz").sha256, source_.files[0].sha256);
}

TEST_F(DownloadTest, NamesTheHttpStatus) {
  source_.files[0].urls = {server_.url("/other")};
  expect_error([&] { run(); }, "[download]", server_.url("/other"), "HTTP status 404");
  expect_nothing_half_done();
  EXPECT_EQ(fs::exists(part()) ? fs::file_size(part()) : 0, 0U);  // not the error page
  server_.set("/other", {.body = "down", .status = 503});
  expect_error([&] { run(); }, "HTTP status 503");
}

TEST_F(DownloadTest, ResumesATruncatedTransfer) {
  server_.set("/set.tar.gz", {.body = archive_, .break_after = 100000, .breaks = 1});
  expect_error([&] { run(); }, server_.url("/set.tar.gz"), "100000 bytes have arrived");
  expect_nothing_half_done();
  EXPECT_EQ(fs::file_size(part()), 100000U);
  int64_t least = INT64_MAX;
  run([&](const DownloadProgress& p) {
    if (p.stage == DownloadProgress::Stage::kDownload && p.done > 0) least = std::min(least, p.done);
    return true;
  });
  expect_complete();
  EXPECT_GE(least, 100000);
  EXPECT_EQ(server_.requests(),
            (std::vector<std::string>{"GET /set.tar.gz", "GET /set.tar.gz bytes=100000-"}));
}

TEST_F(DownloadTest, StartsOverWhenTheServerKnowsNoRanges) {
  server_.set("/set.tar.gz", {.body = archive_, .ranges = false, .break_after = 70000, .breaks = 1});
  expect_error([&] { run(); }, "70000 bytes have arrived");
  run();
  expect_complete();
}

// A transfer without a size that ends early looks complete; the size that is known tells.
TEST_F(DownloadTest, NoticesASilentlyShortTransfer) {
  server_.set("/set.tar.gz", {.body = archive_, .break_after = 5000, .breaks = 1, .announce_size = false});
  expect_error([&] { run(); }, "expected " + std::to_string(archive_.size()) + " bytes, got 5000");
  expect_nothing_half_done();
  run();
  expect_complete();
  EXPECT_EQ(server_.requests().back(), "GET /set.tar.gz bytes=5000-");
}

TEST_F(DownloadTest, WrongChecksumIsThrownAway) {
  std::string other = archive_;
  other[other.size() / 2] = static_cast<char>(other[other.size() / 2] ^ 1);
  server_.set("/set.tar.gz", {.body = other});
  expect_error([&] { run(); }, server_.url("/set.tar.gz"), "wrong checksum",
               "expected SHA-256 " + source_.files[0].sha256);
  expect_nothing_half_done();
  EXPECT_FALSE(fs::exists(part()));

  source_.files[0].sha256.clear();
  expect_error([&] { run(); }, "wrong checksum", "expected MD5 " + source_.files[0].md5);
  server_.set("/set.tar.gz", {.body = archive_});
  run();
  expect_complete();
}

// A part left by another version of the file costs one more transfer, not an error.
TEST_F(DownloadTest, ForeignPartIsFetchedAnew) {
  write_file(part(), Bytes(1234, 'x'));
  run();
  expect_complete();
  EXPECT_EQ(server_.requests().back(), "GET /set.tar.gz");
}

TEST_F(DownloadTest, PartLongerThanTheFileIsFetchedAnew) {
  write_file(part(), Bytes(archive_.size() + 5, 'x'));
  run();
  expect_complete();
  source_.files[0].bytes = 0;  // size unknown: the server says 416
  fs::remove_all(to_);
  write_file(part(), Bytes(archive_.size() + 5, 'x'));
  run();
  expect_complete();
}

TEST_F(DownloadTest, TriesTheNextAddress) {
  source_.files[0].urls = {server_.url("/gone"), server_.url("/set.tar.gz")};
  run();
  expect_complete();
  fs::remove_all(to_);
  source_.files[0].urls = {server_.url("/gone"), server_.url("/away")};
  expect_error([&] { run(); }, "/gone", "; then ", "/away");
}

TEST_F(DownloadTest, InterruptionCanGoOn) {
  expect_error([&] { run([](const DownloadProgress& p) { return p.done < 50000; }); }, "interrupted");
  expect_nothing_half_done();
  EXPECT_GT(fs::file_size(part()), 0U);
  expect_error(
      [&] { run([](const DownloadProgress& p) { return p.stage != DownloadProgress::Stage::kUnpack; }); },
      "interrupted");
  expect_nothing_half_done();
  EXPECT_FALSE(fs::exists(to_ / ".tiny.download/unpacked"));
  run();
  expect_complete();
}

TEST_F(DownloadTest, GivesUpOnAStalledServer) {
  server_.set("/set.tar.gz", {.body = archive_, .stall = true});
  expect_error([&] { run(); }, server_.url("/set.tar.gz"), "have arrived");
  expect_nothing_half_done();
}

TEST_F(DownloadTest, NobodyThere) {
  source_.files[0].urls = {"http://127.0.0.1:1/set.tar.gz"};
  expect_error([&] { run(); }, "http://127.0.0.1:1/set.tar.gz", "connect");
}

TEST_F(DownloadTest, RefusesMoreThanExpected) {
  server_.set("/set.tar.gz", {.body = archive_ + "more", .announce_size = false});
  expect_error([&] { run(); }, "sends more than the " + std::to_string(archive_.size()) + " bytes expected");
  expect_nothing_half_done();
}

TEST_F(DownloadTest, FollowsRedirects) {
  source_.files[0].urls = {server_.url("/moved")};
  server_.set("/moved", {.status = 302, .location = "/set.tar.gz"});
  run();
  expect_complete();
}

TEST_F(DownloadTest, OnlyHttps) {
  expect_error([&] { download(source_, to_); }, server_.url("/set.tar.gz"), "expected an https:// address");
  source_.files[0].urls = {"file:///etc/hostname"};
  expect_error([&] { run(); }, "expected an https:// address");
  source_.files[0].urls = {"http://127.0.0.1.example.org:80/x"};
  expect_error([&] { run(); }, "expected an https:// address");
}

// Writing stops at a file size limit as it stops on a full disk.
TEST_F(DownloadTest, FullDiskIsOneError) {
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  rlimit limit = old_limit;
  limit.rlim_cur = 100000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string error = error_of([&] { run(); });
  setrlimit(RLIMIT_FSIZE, &old_limit);
  EXPECT_NE(error.find("cannot write"), std::string::npos) << error;
  EXPECT_NE(error.find("set.tar.gz.part"), std::string::npos) << error;
  expect_nothing_half_done();

  limit.rlim_cur =
      static_cast<rlim_t>(archive_.size() + 10);  // room for the download, none for what it holds
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  limit.rlim_cur = 299000;
  const std::string unpack_error = error_of([&] {
    run([&](const DownloadProgress& p) {
      if (p.stage == DownloadProgress::Stage::kCheck) setrlimit(RLIMIT_FSIZE, &limit);
      return true;
    });
  });
  setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_NE(unpack_error.find("train.bin: cannot write"), std::string::npos) << unpack_error;
  expect_nothing_half_done();
  run();
  expect_complete();
}

TEST_F(DownloadTest, SaysWhenTheDiskIsTooSmallBeforehand) {
  source_.unpacked_bytes = int64_t{1} << 60;
  expect_error([&] { run(); }, "MB on this disk", "MB are free");
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(DownloadTest, LeavesAUsersFolderAlone) {
  write_file(to_ / "set/mine.txt", {'x'});
  expect_error([&] { run(); }, (to_ / "set").string(), "train.bin is missing", "move it away");
  EXPECT_TRUE(fs::exists(to_ / "set/mine.txt"));
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(DownloadTest, OneAtATime) {
  int inner = 0;
  run([&](const DownloadProgress& p) {
    if (p.stage == DownloadProgress::Stage::kCheck && inner++ == 0) {
      expect_error([&] { run(); }, "another download of this data set is running");
    }
    return true;
  });
  EXPECT_GT(inner, 0);
  expect_complete();
}

TEST_F(DownloadTest, ArchiveWithOtherContents) {
  source_.contents.push_back({"labels.bin", 9});
  expect_error([&] { run(); }, "labels.bin is missing");
  expect_nothing_half_done();
  source_.contents.back() = {"test.bin", 5};
  expect_error([&] { run(); }, "test.bin has 4 bytes, expected 5");
}

class Unpack : public testing::Test {
 protected:
  void unpack(const std::vector<TarEntry>& entries, int64_t most = 0) {
    make_tar(dir_ / "a.tar.gz", entries);
    fs::create_directories(dir_ / "to");
    unpack_tar(dir_ / "a.tar.gz", dir_ / "to", most);
  }
  TempDir dir_;
};

TEST_F(Unpack, StaysInItsFolder) {
  for (const std::string path : {"../evil", "a/../../evil", "/tmp/evil-bitdial"}) {
    expect_error(
        [&] {
          unpack({{path, "x", AE_IFREG, ""}});
        },
        "a.tar.gz", path, "outside the data set's folder");
  }
  EXPECT_FALSE(fs::exists(dir_ / "evil"));
  EXPECT_FALSE(fs::exists("/tmp/evil-bitdial"));
}

TEST_F(Unpack, TakesFilesAndFoldersOnly) {
  expect_error(
      [&] {
        unpack({{"link", "", AE_IFLNK, "/etc"}, {"link/x", "x", AE_IFREG, ""}});
      },
      "'link'", "neither a file nor a folder");
  expect_error(
      [&] {
        unpack({{"a", "x", AE_IFREG, ""}, {"b", "", AE_IFREG, "a"}});
      },
      "'b'", "neither a file");
  expect_error([&] { unpack({{"pipe", "", AE_IFIFO, ""}}); }, "'pipe'", "neither a file");
}

TEST_F(Unpack, LimitsWhatComesOut) {
  expect_error(
      [&] {
        unpack({{"a", std::string(2000000, 'x'), AE_IFREG, ""}}, 1000000);
      },
      "holds more than it should");
}

TEST_F(Unpack, NoticesDamage) {
  unpack({{"a", noise(100000), AE_IFREG, ""}, {"b", noise(1000), AE_IFREG, ""}});
  const Bytes good = read_back(dir_ / "a.tar.gz");
  for (const double share : {0.1, 0.5, 0.95}) {
    write_file(
        dir_ / "a.tar.gz",
        Bytes(good.begin(), good.begin() + static_cast<int64_t>(share * static_cast<double>(good.size()))));
    expect_error([&] { unpack_tar(dir_ / "a.tar.gz", dir_ / "to", 0); }, "a.tar.gz", "corrupt or truncated");
  }
  write_file(dir_ / "a.tar.gz", Bytes(5000, 'z'));
  expect_error([&] { unpack_tar(dir_ / "a.tar.gz", dir_ / "to", 0); }, "a.tar.gz", "corrupt or truncated");
  expect_error([&] { unpack_tar(dir_ / "none.tar.gz", dir_ / "to", 0); }, "none.tar.gz");
}

TEST(Checksum, KnownValues) {
  const TempDir dir;
  write_file(dir / "abc", {'a', 'b', 'c'});
  const Checksums sums = file_checksums(dir / "abc");
  EXPECT_EQ(sums.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sums.md5, "900150983cd24fb0d6963f7d28e17f72");
  expect_error([&] { file_checksums(dir / "none"); }, "none", "cannot open");
}

TEST(Sources, AreCompleteAndHttps) {
  for (const DatasetSource& source : dataset_sources()) {
    EXPECT_FALSE(source.folder.empty());
    EXPECT_FALSE(source.contents.empty());
    for (const RemoteFile& file : source.files) {
      EXPECT_EQ(file.sha256.size(), 64U) << file.name;
      EXPECT_EQ(file.md5.size(), 32U) << file.name;
      EXPECT_GT(file.bytes, 0) << file.name;
      for (const std::string& url : file.urls) EXPECT_TRUE(url.starts_with("https://")) << url;
    }
  }
  EXPECT_EQ(dataset_source("mnist").files.size(), 4U);
  expect_error([] { dataset_source("imagenet"); }, "'imagenet'", "cifar10, cifar100, mnist, fashion-mnist");
}

}  // namespace
}  // namespace bitdial::data
