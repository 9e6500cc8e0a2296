#include <bitrain/text/hf_decoder.h>

#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/pattern.h>
#include <bitrain/text/spm_model.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

class ByteLevelDecoder : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) bytes += bytes_of_characters(token).value_or(token);
    tokens = {replace_invalid_utf8(bytes)};
  }
};

class MetaspaceDecoder : public Decoder {
 public:
  MetaspaceDecoder(std::string mark, bool prefixed) : mark_(std::move(mark)), prefixed_(prefixed) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      std::string text;
      std::string_view rest = tokens[i];
      if (i == 0 && prefixed_ && rest.substr(0, mark_.size()) == mark_) rest.remove_prefix(mark_.size());
      for (std::size_t at = 0; at < rest.size();) {
        const bool mark = rest.substr(at, mark_.size()) == mark_;
        const std::size_t length = mark ? mark_.size() : 1;
        text += mark ? std::string_view(" ") : rest.substr(at, length);
        at += length;
      }
      tokens[i] = std::move(text);
    }
  }

 private:
  std::string mark_;
  bool prefixed_;
};

class ByteFallbackDecoder : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::vector<std::string> result;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (find_invalid_utf8(bytes) == std::string_view::npos) {
        result.push_back(bytes);
      } else {
        for (std::size_t i = 0; i < bytes.size(); ++i) result.emplace_back(kReplacement);
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const auto byte = byte_of_piece(token)) {
        bytes += static_cast<char>(*byte);
        continue;
      }
      flush();
      result.push_back(std::move(token));
    }
    flush();
    tokens = std::move(result);
  }
};

class FuseDecoder : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override { tokens = {join(tokens, "")}; }
};

class StripDecoder : public Decoder {
 public:
  StripDecoder(std::string content, std::int64_t start, std::int64_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (std::int64_t i = 0; i < start_ && starts_with(rest, content_); ++i)
        rest.remove_prefix(content_.size());
      for (std::int64_t i = 0; i < stop_ && ends_with(rest, content_); ++i)
        rest.remove_suffix(content_.size());
      token = std::string(rest);
    }
  }

 private:
  std::string content_;
  std::int64_t start_, stop_;
};

class ReplaceDecoder : public Decoder {
 public:
  ReplaceDecoder(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::vector<std::string>& tokens) const override {
    std::vector<Pattern::Range> matches;
    for (std::string& token : tokens) {
      matches.clear();
      pattern_.find_all(token, matches);
      for (auto match = matches.rbegin(); match != matches.rend(); ++match)
        token.replace(match->first, match->second - match->first, content_);
    }
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class WordPieceDecoder : public Decoder {
 public:
  WordPieceDecoder(std::string prefix, bool cleanup) : prefix_(std::move(prefix)), cleanup_(cleanup) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      std::string& token = tokens[i];
      if (i > 0) {
        if (starts_with(token, prefix_))
          token.erase(0, prefix_.size());
        else
          token.insert(0, 1, ' ');
      }
      if (cleanup_) clean(token);
    }
  }

 private:
  /// Undoes the blanks that English has not, in this order.
  static void clean(std::string& token) {
    constexpr std::pair<std::string_view, std::string_view> kChanges[] = {
        {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& [from, to] : kChanges) {
      for (std::size_t at = token.find(from); at != std::string::npos; at = token.find(from, at + to.size()))
        token.replace(at, from.size(), to);
    }
  }

  std::string prefix_;
  bool cleanup_;
};

class SequenceDecoder : public Decoder {
 public:
  explicit SequenceDecoder(std::vector<std::unique_ptr<const Decoder>> steps) : steps_(std::move(steps)) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (const auto& step : steps_) step->apply(tokens);
  }

 private:
  std::vector<std::unique_ptr<const Decoder>> steps_;
};

/// GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 up.
struct ByteCharacters {
  std::array<std::uint32_t, 256> characters{};
  std::array<std::int16_t, 512> bytes{};

  ByteCharacters() {
    bytes.fill(-1);
    std::uint32_t next = 256;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      characters[byte] = printable ? byte : next++;
      bytes[characters[byte]] = static_cast<std::int16_t>(byte);
    }
  }
};
const ByteCharacters& byte_characters() {
  static const ByteCharacters kTable;
  return kTable;
}

}  // namespace

std::uint32_t character_of_byte(std::uint8_t byte) {
  return byte_characters().characters[byte];
}

std::optional<std::string> bytes_of_characters(std::string_view text) {
  std::string bytes;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_at(text, at);
    if (c.code >= 512 || byte_characters().bytes[c.code] < 0) return std::nullopt;
    bytes += static_cast<char>(byte_characters().bytes[c.code]);
    at += c.length;
  }
  return bytes;
}

std::unique_ptr<const Decoder> make_decoder(const io::Json& json, const std::string& where) {
  if (json.is_null()) return nullptr;
  const std::string place = where + ": decoder";
  const auto type = field<std::string>(json, "type", place);
  if (type == "ByteLevel") return std::make_unique<ByteLevelDecoder>();
  if (type == "ByteFallback") return std::make_unique<ByteFallbackDecoder>();
  if (type == "Fuse") return std::make_unique<FuseDecoder>();
  if (type == "WordPiece")
    return std::make_unique<WordPieceDecoder>(field<std::string>(json, "prefix", place),
                                              field<bool>(json, "cleanup", place));
  if (type == "Metaspace") {
    const auto scheme = optional_field<std::string>(json, "prepend_scheme", place);
    const bool prefixed =
        scheme ? *scheme != "never" : optional_field<bool>(json, "add_prefix_space", place).value_or(true);
    auto mark = optional_field<std::string>(json, "replacement", place).value_or(std::string(kSpaceMark));
    if (mark.empty()) throw FormatError(place, ": 'replacement' is empty");
    return std::make_unique<MetaspaceDecoder>(std::move(mark), prefixed);
  }
  if (type == "Strip") {
    auto content = field<std::string>(json, "content", place);
    if (content.empty()) throw FormatError(place, ": 'content' is empty");
    return std::make_unique<StripDecoder>(std::move(content), field<std::int64_t>(json, "start", place),
                                          field<std::int64_t>(json, "stop", place));
  }
  if (type == "Replace")
    return std::make_unique<ReplaceDecoder>(Pattern(member(json, "pattern", place), place),
                                            field<std::string>(json, "content", place));
  if (type == "Sequence") {
    const io::Json& list = member(json, "decoders", place);
    if (!list.is_array()) throw FormatError(place, ": 'decoders' is not a list");
    std::vector<std::unique_ptr<const Decoder>> steps;
    for (const io::Json& step : list) {
      if (auto made = make_decoder(step, where)) steps.push_back(std::move(made));
    }
    return std::make_unique<SequenceDecoder>(std::move(steps));
  }
  throw UnsupportedError(place, ": the type '", type, "' is not supported");
}

}  // namespace bitrain::text
