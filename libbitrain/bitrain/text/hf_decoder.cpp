#include <bitrain/text/hf_decoder.h>

#include <algorithm>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/byte_characters.h>
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

std::size_t bytes_of(const std::vector<std::string>& tokens) {
  std::size_t bytes = 0;
  for (const std::string& token : tokens) bytes += token.size();
  return bytes;
}

/// What may become of tokens, as Rewriter has it for texts.
class Limit {
 public:
  explicit Limit(const std::vector<std::string>& tokens)
      : most_(64 * bytes_of(tokens) + (std::size_t{64} << 10)) {}
  void check(std::size_t bytes) const {
    if (bytes > most_)
      throw DataError("the tokenizer's decoder makes more than ", most_,
                      " bytes of its tokens: it is damaged");
  }

 private:
  std::size_t most_;
};

class ReplaceDecoder : public Decoder {
 public:
  ReplaceDecoder(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::vector<std::string>& tokens) const override {
    const Limit limit(tokens);
    std::size_t added = 0;
    std::vector<Pattern::Range> matches;
    for (std::string& token : tokens) {
      matches.clear();
      pattern_.find_all(token, matches);
      if (matches.empty()) continue;
      added += matches.size() * content_.size();
      limit.check(added);
      std::string text;
      std::size_t at = 0;
      for (const auto& [begin, end] : matches) {
        text.append(token, at, begin - at);
        text += content_;
        at = end;
      }
      text.append(token, at, std::string::npos);
      token = std::move(text);
    }
  }

 private:
  Pattern pattern_;
  std::string content_;
};

/// `text` with every `from` replaced, from left to right.
std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  std::size_t at = 0;
  for (std::size_t found = text.find(from); found != std::string_view::npos; found = text.find(from, at)) {
    result += text.substr(at, found - at);
    result += to;
    at = found + from.size();
  }
  result += text.substr(at);
  return result;
}

/// Undoes the blanks that English has not, in this order.
void clean_up(std::string& token) {
  constexpr std::pair<std::string_view, std::string_view> kChanges[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kChanges) token = replaced(token, from, to);
}

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
      if (cleanup_) clean_up(token);
    }
  }

 private:
  std::string prefix_;
  bool cleanup_;
};

/// The first BPE models': a mark at the end of words becomes a space, but for the last.
class BpeDecoder : public Decoder {
 public:
  explicit BpeDecoder(std::string suffix) : suffix_(std::move(suffix)) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = replaced(tokens[i], suffix_, i + 1 == tokens.size() ? "" : " ");
  }

 private:
  std::string suffix_;
};

/// Speech models': repeats are one token, and the padding between them none.
class CtcDecoder : public Decoder {
 public:
  CtcDecoder(std::string pad, std::string delimiter, bool cleanup)
      : pad_(std::move(pad)), delimiter_(std::move(delimiter)), cleanup_(cleanup) {}
  void apply(std::vector<std::string>& tokens) const override {
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
    std::vector<std::string> result;
    for (const std::string& token : tokens) {
      std::string text = replaced(token, pad_, "");
      if (cleanup_) {
        clean_up(text);
        text = replaced(text, delimiter_, " ");
      }
      if (!text.empty()) result.push_back(std::move(text));
    }
    tokens = std::move(result);
  }

 private:
  std::string pad_, delimiter_;
  bool cleanup_;
};

class SequenceDecoder : public Decoder {
 public:
  explicit SequenceDecoder(std::vector<std::unique_ptr<const Decoder>> steps) : steps_(std::move(steps)) {}
  void apply(std::vector<std::string>& tokens) const override {
    const Limit limit(tokens);
    for (const auto& step : steps_) {
      step->apply(tokens);
      limit.check(bytes_of(tokens));
    }
  }

 private:
  std::vector<std::unique_ptr<const Decoder>> steps_;
};

}  // namespace

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
  if (type == "BPEDecoder") {
    auto suffix = field<std::string>(json, "suffix", place);
    if (suffix.empty()) throw UnsupportedError(place, ": an empty 'suffix' is not supported");
    return std::make_unique<BpeDecoder>(std::move(suffix));
  }
  if (type == "CTC") {
    auto pad = field<std::string>(json, "pad_token", place);
    auto delimiter = field<std::string>(json, "word_delimiter_token", place);
    if (pad.empty() || delimiter.empty())
      throw UnsupportedError(place, ": an empty 'pad_token' or 'word_delimiter_token' is not supported");
    return std::make_unique<CtcDecoder>(std::move(pad), std::move(delimiter),
                                        field<bool>(json, "cleanup", place));
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
