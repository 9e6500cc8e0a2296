#pragma once

#include <string>
#include <utility>
#include <vector>

#include <support/byte_tokenizer.h>

namespace bitrain::test {

/// One token a byte, and special tokens from id 300 on that markup spells. A stripping one takes in the
/// spaces and line breaks behind it, as added tokens with rstrip do.
class MarkerTokenizer : public ByteTokenizer {
 public:
  explicit MarkerTokenizer(std::vector<std::string> markers, std::vector<std::string> stripping = {})
      : ByteTokenizer(true, true), markers_(std::move(markers)), plain_(markers_.size()) {
    markers_.insert(markers_.end(), stripping.begin(), stripping.end());
  }
  /// The first marker takes the place of EOS, or of BOS.
  void make_first_eos() { eos_ = true; }
  void make_first_bos() { bos_ = true; }

  std::int64_t vocab_size() const override { return 300 + static_cast<std::int64_t>(markers_.size()); }
  std::string id_to_piece(text::TokenId id) const override {
    return id >= 300  ? markers_.at(static_cast<std::size_t>(id - 300))
           : id > 258 ? "<unused>"
                      : ByteTokenizer::id_to_piece(id);
  }
  const text::SpecialTokens& special_tokens() const override {
    special_ = ByteTokenizer::special_tokens();
    if (eos_) special_.eos = 300;
    if (bos_) special_.bos = 300;
    return special_;
  }
  text::Encoding encode_markup(std::string_view text,
                               const std::vector<text::Offset>& markup) const override {
    text::Encoding encoding;
    for (std::size_t at = 0; at < text.size();) {
      const auto [id, size] = marker_at(text, at, markup);
      encoding.ids.push_back(id);
      encoding.offsets.push_back({static_cast<std::int32_t>(at), static_cast<std::int32_t>(at + size)});
      at += size;
    }
    return encoding;
  }

 private:
  [[nodiscard]] std::pair<text::TokenId, std::size_t> marker_at(
      std::string_view text, std::size_t at, const std::vector<text::Offset>& markup) const {
    for (const text::Offset& range : markup) {
      const auto end = static_cast<std::size_t>(range.end);
      if (at < static_cast<std::size_t>(range.begin) || at >= end) continue;
      for (std::size_t m = 0; m < markers_.size(); ++m) {
        std::size_t size = markers_[m].size();
        if (at + size > end || text.substr(at, size) != markers_[m]) continue;
        while (m >= plain_ && at + size < text.size() && (text[at + size] == ' ' || text[at + size] == '\n'))
          ++size;
        return {static_cast<text::TokenId>(300 + m), size};
      }
      // The byte tokenizer's own special tokens have spellings too.
      for (const auto& [id, spelling] :
           {std::pair<text::TokenId, std::string_view>{256, "<s>"}, {257, "</s>"}})
        if (text.substr(at, spelling.size()) == spelling && at + spelling.size() <= end)
          return {id, spelling.size()};
    }
    return {static_cast<unsigned char>(text[at]), 1};
  }

  std::vector<std::string> markers_;
  std::size_t plain_;
  bool eos_ = false;
  bool bos_ = false;
  mutable text::SpecialTokens special_;
};

}  // namespace bitrain::test
