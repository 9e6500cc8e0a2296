#pragma once

#include <filesystem>

#include <bitrain/io/temporary_directory.h>

namespace bitrain::test {

/// A fresh folder that is removed at the end of scope; that of a test that was killed, by the next test.
class TemporaryDirectory {
 public:
  [[nodiscard]] const std::filesystem::path& path() const { return directory_.path(); }

 private:
  io::TemporaryDirectory directory_{"bitrain-test"};
};

}  // namespace bitrain::test
