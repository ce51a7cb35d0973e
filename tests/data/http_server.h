#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace bitdial::data {

/// What the server does when it is asked for a path.
struct Page {
  std::string body{};
  int status = 200;
  std::string location{};     ///< of a redirect
  bool ranges = true;         ///< honours Range
  int64_t break_after = -1;   ///< closes the connection after so many bytes of the body, for ever
  int breaks = 1 << 30;       ///< how often it does that
  bool announce_size = true;  ///< sends Content-Length
  bool stall = false;         ///< sends half of the body, then nothing
};

/// An HTTP/1.1 server on 127.0.0.1 for one test. Every connection serves one request.
class HttpServer {
 public:
  HttpServer() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (socket_ < 0 || bind(socket_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(socket_, 16) != 0 || getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      throw std::runtime_error("cannot listen on 127.0.0.1");
    }
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }

  ~HttpServer() {
    stopping_ = true;
    shutdown(socket_, SHUT_RDWR);
    thread_.join();
    close(socket_);
  }
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  std::string url(const std::string& path) const {
    return "http://127.0.0.1:" + std::to_string(port_) + path;
  }

  void set(const std::string& path, Page page) {
    const std::lock_guard lock(mutex_);
    pages_[path] = std::move(page);
  }

  /// The request lines and Range headers so far: "GET /x" or "GET /x bytes=5-".
  std::vector<std::string> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  void serve() {
    while (!stopping_) {
      const int connection = accept(socket_, nullptr, nullptr);
      if (connection < 0) continue;
      answer(connection);
      close(connection);
    }
  }

  static std::string read_request(int connection) {
    std::string request;
    char buffer[4096];
    while (request.find("\r\n\r\n") == std::string::npos) {
      const ssize_t got = recv(connection, buffer, sizeof(buffer), 0);
      if (got <= 0) break;
      request.append(buffer, static_cast<size_t>(got));
    }
    return request;
  }

  void answer(int connection) {
    const std::string request = read_request(connection);
    const std::string path = request.substr(4, request.find(' ', 4) - 4);
    const size_t range = request.find("Range: bytes=");
    const int64_t from = range == std::string::npos ? 0 : std::stoll(request.substr(range + 13));
    Page page{.body = "no such page", .status = 404};
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back("GET " + path +
                          (range == std::string::npos ? "" : " bytes=" + std::to_string(from) + "-"));
      const auto found = pages_.find(path);
      if (found != pages_.end()) {
        page = found->second;
        if (found->second.breaks-- <= 0) page.break_after = -1;
      }
    }
    respond(connection, page, from, range != std::string::npos);
  }

  void respond(int connection, Page& page, int64_t from, bool ranged) const {
    if (page.status == 200 && page.ranges && ranged) {
      if (from >= static_cast<int64_t>(page.body.size())) {
        page.status = 416;
        page.body.clear();
      } else {
        page.status = 206;
        page.body.erase(0, static_cast<size_t>(from));
      }
    }
    std::string head = "HTTP/1.1 " + std::to_string(page.status) + " X\r\nConnection: close\r\n";
    if (page.announce_size) head += "Content-Length: " + std::to_string(page.body.size()) + "\r\n";
    if (!page.location.empty()) head += "Location: " + page.location + "\r\n";
    send_all(connection, head + "\r\n");
    if (page.break_after >= 0)
      page.body.resize(std::min(page.body.size(), static_cast<size_t>(page.break_after)));
    if (page.stall) page.body.resize(page.body.size() / 2);
    send_all(connection, page.body);
    while (page.stall && !stopping_) {
      char byte = 0;
      const ssize_t got = recv(connection, &byte, 1, 0);
      if (got <= 0) break;  // the client gave up
    }
  }

  static void send_all(int connection, const std::string& text) {
    size_t sent = 0;
    while (sent < text.size()) {
      const ssize_t count = send(connection, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) return;
      sent += static_cast<size_t>(count);
    }
  }

  int socket_;
  int port_ = 0;
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::map<std::string, Page> pages_;
  std::vector<std::string> requests_;
  std::thread thread_;
};

}  // namespace bitdial::data
