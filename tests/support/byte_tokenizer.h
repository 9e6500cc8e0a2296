#pragma once

#include <string>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::test {

/// One token a byte: ids 0..255 are the bytes; then BOS 256, EOS 257, PAD 258. Or without any of the three.
class ByteTokenizer : public text::Tokenizer {
 public:
  explicit ByteTokenizer(bool bos = true, bool eos = true) {
    if (bos) special_.bos = 256;
    if (eos) special_.eos = 257;
    special_.pad = 258;
  }

  std::int64_t vocab_size() const override { return 259; }
  std::vector<text::TokenId> encode(std::string_view text) const override {
    std::vector<text::TokenId> ids;
    for (char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  text::Encoding encode_with_offsets(std::string_view text) const override {
    text::Encoding encoding;
    encoding.ids = encode(text);
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(text.size()); ++i) {
      encoding.offsets.push_back({i, i + 1});
    }
    return encoding;
  }
  std::string decode(const std::vector<text::TokenId>& ids) const override {
    std::string text;
    for (text::TokenId id : ids) {
      if (id < 256) text.push_back(static_cast<char>(id));
    }
    return text;
  }
  std::string id_to_piece(text::TokenId id) const override {
    if (id < 0 || id >= vocab_size()) throw DataError("id ", id, " is not in the vocabulary");
    if (id == 256) return "<s>";
    if (id == 257) return "</s>";
    if (id == 258) return "<pad>";
    return std::string(1, static_cast<char>(id));
  }
  std::optional<text::TokenId> piece_to_id(std::string_view piece) const override {
    for (text::TokenId id = 0; id < vocab_size(); ++id) {
      if (id_to_piece(id) == piece) return id;
    }
    return std::nullopt;
  }
  const text::SpecialTokens& special_tokens() const override { return special_; }
  void save(const std::filesystem::path&) const override {
    throw UnsupportedError("a byte tokenizer has no files");
  }

 private:
  text::SpecialTokens special_;
};

}  // namespace bitrain::test
