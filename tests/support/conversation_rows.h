#pragma once

#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/data/source.h>
#include <support/temporary_directory.h>

namespace bitrain::test {

/// Files of conversations, and what is read of them.
class ConversationRows : public ::testing::Test {
 protected:
  data::SourceOptions options(const std::string& rows, const std::string& name = "x.jsonl") const {
    data::SourceOptions o;
    o.path = (folder_.path() / name).string();
    o.reads = "conversations";
    std::ofstream(o.path, std::ios::binary) << rows;
    return o;
  }
  /// "role: content" of each message of the first row, or the error.
  static std::vector<std::string> read(const data::SourceOptions& options) {
    std::vector<std::string> found;
    try {
      for (const data::Message& message : data::open_source(options)->at(0).messages)
        found.push_back(message.role + ": " + message.content);
    } catch (const Error& error) {
      found.push_back(std::string(kind_name(error.kind())) + ": " + error.what());
    }
    return found;
  }
  std::vector<std::string> read(const std::string& rows) const { return read(options(rows + "\n")); }
  /// The error of a second row, behind one of messages.
  std::string fault(const std::string& row) const {
    return read(R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})"
                "\n" +
                row)
        .front();
  }

  TemporaryDirectory folder_;
};

}  // namespace bitrain::test
