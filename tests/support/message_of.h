#pragma once

#include <exception>
#include <functional>
#include <string>

namespace bitrain::test {

/// What an error of kind E says when `call` throws one; another text, which no error says, when it does not.
template <typename E>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another kind of error: ") + error.what();
  }
  return "nothing was thrown";
}

}  // namespace bitrain::test
