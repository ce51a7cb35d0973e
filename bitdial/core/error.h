#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace bitdial {

/// Every failure that a user can cause or mend. The text names the operation in brackets, what was expected
/// and what came: "[conv2d] weight has 3 input channels, input has 16".
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws Error("[operation] message").
template <class... Args>
[[noreturn]] void fail(const char* operation, fmt::format_string<Args...> message, Args&&... args) {
  throw Error(fmt::format("[{}] {}", operation, fmt::format(message, std::forward<Args>(args)...)));
}

/// Throws Error("[operation] message") unless `condition` holds.
template <class... Args>
void require(bool condition, const char* operation, fmt::format_string<Args...> message, Args&&... args) {
  if (!condition) fail(operation, message, std::forward<Args>(args)...);
}

}  // namespace bitdial
