#include "bitdial/cli/background.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "bitdial/core/error.h"

namespace bitdial::cli {

namespace fs = std::filesystem;

namespace {

std::vector<std::string> own_arguments() {
  std::ifstream stream("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> arguments;
  for (std::string argument; std::getline(stream, argument, '\0');) arguments.push_back(argument);
  require(!arguments.empty(), "background", "this program's arguments cannot be read");
  return arguments;
}

/// In the child: nothing but calls that are safe between fork and exec.
[[noreturn]] void become(const char* program, std::vector<char*>& arguments, int log) {
  const int nothing = ::open("/dev/null", O_RDONLY);
  ::setsid();
  if (nothing >= 0) ::dup2(nothing, STDIN_FILENO);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::execv(program, arguments.data());
  ::_exit(127);
}

}  // namespace

void run_in_background(const fs::path& log, std::string_view flag) {
  std::vector<std::string> arguments = own_arguments();
  std::erase(arguments, std::string(flag));
  const std::string program = fs::read_symlink("/proc/self/exe").string();
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  if (log.has_parent_path()) fs::create_directories(log.parent_path());
  const int descriptor = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  require(descriptor >= 0, "background", "cannot write {}: {}", log.string(), std::strerror(errno));
  const pid_t child = ::fork();
  if (child == 0) become(program.c_str(), pointers, descriptor);
  const int reason = errno;
  ::close(descriptor);
  require(child > 0, "background", "cannot start a process: {}", std::strerror(reason));
  fmt::print("process {} trains; its output: {}\nkill {} stops it with everything saved\n", child,
             log.string(), child);
}

}  // namespace bitdial::cli
