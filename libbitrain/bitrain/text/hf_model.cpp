#include <bitrain/text/hf_model.h>

#include <array>
#include <cmath>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/text/bpe.h>
#include <bitrain/text/byte_characters.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/spm_model.h>
#include <bitrain/text/unigram.h>
#include <bitrain/text/utf8.h>
#include <bitrain/text/wordpiece.h>

namespace bitrain::text {
namespace {

/// Ids of the 256 byte pieces, nothing where none is there. Throws UnsupportedError where only some are.
std::optional<std::array<TokenId, 256>> byte_ids(const std::unordered_map<std::string, TokenId>& vocabulary,
                                                 const std::string& where) {
  std::array<TokenId, 256> ids{};
  int count = 0;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary.find(byte_piece(static_cast<std::uint8_t>(byte)));
    if (found == vocabulary.end()) continue;
    ids[byte] = found->second;
    ++count;
  }
  if (count > 0 && count < 256)
    throw UnsupportedError(where, ": 'byte_fallback' with ", count,
                           " of the 256 pieces <0x00> to <0xFF> is not supported: give all, or none");
  return count == 0 ? std::nullopt : std::optional(ids);
}

class BpeModel : public WordModel {
 public:
  BpeModel(const io::Json& json, bool byte_level, const std::string& where) : byte_level_(byte_level) {
    prefix_ = optional_field<std::string>(json, "continuing_subword_prefix", where).value_or("");
    suffix_ = optional_field<std::string>(json, "end_of_word_suffix", where).value_or("");
    if (optional_field<double>(json, "dropout", where).value_or(0) != 0)
      throw UnsupportedError(where, ": 'dropout' is not supported: it makes ids random");
    fuse_unknown_ = optional_field<bool>(json, "fuse_unk", where).value_or(false);
    ignore_merges_ = optional_field<bool>(json, "ignore_merges", where).value_or(false);
    read_vocabulary(member(json, "vocab", where), where);
    read_merges(member(json, "merges", where), where);
    if (const auto token = optional_field<std::string>(json, "unk_token", where)) {
      const auto found = vocabulary_.find(*token);
      if (found == vocabulary_.end())
        throw FormatError(where, ": the unk_token '", *token, "' is not in the vocabulary");
      unknown_ = found->second;
    }
    if (optional_field<bool>(json, "byte_fallback", where).value_or(false))
      bytes_ = byte_ids(vocabulary_, where);
    if (bytes_ && !(prefix_.empty() && suffix_.empty()))
      throw UnsupportedError(where, ": 'byte_fallback' beside a prefix or suffix is not supported");
  }

  void encode(std::string_view word, std::vector<Token>& tokens) const override {
    if (ignore_merges_) {
      if (const auto found = words_.find(word); found != words_.end()) {
        tokens.push_back({found->second, static_cast<std::uint32_t>(word.size())});
        return;
      }
    }
    thread_local std::vector<BpeMerger::Symbol> symbols;
    symbols.clear();
    bool after_unknown = false;
    for (std::size_t at = 0; at < word.size();) {
      const std::uint32_t length = byte_level_ ? 1 : utf8_at(word, at).length;
      const std::uint32_t symbol = symbol_of(word, at, length);
      const bool known = symbol != BpeMerger::kNoSymbol;
      if (known) {
        symbols.push_back({symbol, length});
      } else if (bytes_) {
        for (std::size_t i = at; i < at + length; ++i)
          symbols.push_back({static_cast<std::uint32_t>((*bytes_)[static_cast<std::uint8_t>(word[i])]), 1});
      } else if (unknown_) {
        if (fuse_unknown_ && after_unknown)
          symbols.back().length += length;
        else
          symbols.push_back({static_cast<std::uint32_t>(*unknown_), length});
      }
      after_unknown = !known && !bytes_;
      at += length;
    }
    merger_.merge(symbols);
    for (const BpeMerger::Symbol& symbol : symbols)
      tokens.push_back({static_cast<TokenId>(symbol.id), symbol.length});
  }

 private:
  [[nodiscard]] std::uint32_t symbol_of(std::string_view word, std::size_t at, std::uint32_t length) const {
    if (byte_level_) return byte_symbols_[static_cast<std::uint8_t>(word[at])];
    if (!prefix_.empty() || !suffix_.empty()) {
      std::string spelling = at == 0 ? "" : prefix_;
      spelling += word.substr(at, length);
      if (at + length == word.size()) spelling += suffix_;
      const auto found = vocabulary_.find(spelling);
      return found == vocabulary_.end() ? BpeMerger::kNoSymbol : static_cast<std::uint32_t>(found->second);
    }
    const Utf8Char c = utf8_at(word, at);
    if (c.code < 128) return byte_symbols_[c.code];
    const std::uint32_t* symbol = symbols_.find(c.code);
    return symbol != nullptr ? *symbol : BpeMerger::kNoSymbol;
  }

  void read_vocabulary(const io::Json& vocabulary, const std::string& where) {
    if (!vocabulary.is_object()) throw FormatError(where, ": 'vocab' is not an object");
    vocabulary_.reserve(vocabulary.size());
    byte_symbols_.fill(BpeMerger::kNoSymbol);
    for (const auto& [token, id] : vocabulary.items()) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= (1U << 30))
        throw FormatError(where, ": the id of '", token, "' is not a whole number below 2^30");
      const auto number = id.get<std::uint32_t>();
      vocabulary_.emplace(token, static_cast<TokenId>(number));
      const Utf8Char c = token.empty() ? Utf8Char{} : utf8_at(token, 0);
      if (!token.empty() && token.size() == c.length) {
        if (byte_level_) {
          if (const auto byte = bytes_of_characters(token))
            byte_symbols_[static_cast<std::uint8_t>((*byte)[0])] = number;
        } else if (c.code < 128) {
          byte_symbols_[c.code] = number;
        } else {
          symbols_.at_or_insert(c.code) = number;
        }
      }
    }
    if (!ignore_merges_) return;
    for (const auto& [token, id] : vocabulary_) {
      if (auto bytes = byte_level_ ? bytes_of_characters(token) : token)
        word_texts_.emplace_back(*std::move(bytes), id);
    }
    words_.reserve(word_texts_.size());
    for (const auto& [text, id] : word_texts_) words_.emplace(text, id);
  }

  void read_merges(const io::Json& merges, const std::string& where) {
    if (!merges.is_array()) throw FormatError(where, ": 'merges' is not a list");
    merger_.reserve(merges.size());
    std::uint32_t rank = 0;
    for (const io::Json& merge : merges) {
      std::string left;
      std::string right;
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      } else if (merge.is_string()) {  // The older form, "left right".
        const auto text = merge.get<std::string>();
        const std::size_t space = text.find(' ');
        if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
          throw FormatError(where, ": merge ", rank, " is not two tokens");
        left = text.substr(0, space);
        right = text.substr(space + 1);
      } else {
        throw FormatError(where, ": merge ", rank, " is not two tokens");
      }
      const auto a = vocabulary_.find(left);
      const auto b = vocabulary_.find(right);
      if (right.size() < prefix_.size())
        throw FormatError(where, ": merge ", rank, ", '", left, "' '", right, "', lacks the prefix '",
                          prefix_, "'");
      const auto joined = vocabulary_.find(left + right.substr(prefix_.size()));
      if (a == vocabulary_.end() || b == vocabulary_.end() || joined == vocabulary_.end())
        throw FormatError(where, ": merge ", rank, ", '", left, "' '", right, "', is not of the vocabulary");
      merger_.add(static_cast<std::uint32_t>(a->second), static_cast<std::uint32_t>(b->second), rank++,
                  static_cast<std::uint32_t>(joined->second));
    }
  }

  bool byte_level_;
  std::string prefix_;  ///< Of every character of a word but the first.
  std::string suffix_;  ///< Of the last.
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
  BpeMerger merger_;
  std::array<std::uint32_t, 256> byte_symbols_{};  ///< Of bytes, or of ASCII characters.
  PairTable<std::uint32_t> symbols_;               ///< Of other characters.
  std::optional<std::array<TokenId, 256>> bytes_;
  std::vector<std::pair<std::string, TokenId>> word_texts_;
  std::unordered_map<std::string_view, TokenId> words_;  ///< Whole words, for ignore_merges.
};

class UnigramModel : public WordModel {
 public:
  UnigramModel(const io::Json& json, const SpecialSpellings& special, const std::string& where)
      : where_(where) {
    const io::Json& pieces = member(json, "vocab", where);
    if (!pieces.is_array() || pieces.empty()) throw FormatError(where, ": 'vocab' is not a list of pieces");
    vocabulary_.reserve(pieces.size());
    const auto unknown = optional_field<std::int64_t>(json, "unk_id", where);
    const bool spells_all = optional_field<bool>(json, "byte_fallback", where).value_or(false);
    TokenId id = 0;
    for (const io::Json& piece : pieces) {
      if (!piece.is_array() || piece.size() != 2 || !piece[0].is_string() || !piece[1].is_number())
        throw FormatError(where, ": piece ", id, " is not a text and a score");
      auto text = piece[0].get<std::string>();
      const auto score = piece[1].get<double>();
      if (!std::isfinite(score)) throw FormatError(where, ": the score of piece ", id, " is not finite");
      const bool plain = spells_all && id != unknown && special.count(text) != 0;
      if (!text.empty() && !plain) segmenter_.add(text, id, score);
      vocabulary_[std::move(text)] = id++;
    }
    if (unknown) {
      if (*unknown < 0 || *unknown >= id)
        throw FormatError(where, ": unk_id ", *unknown, " is outside the vocabulary");
      unknown_ = static_cast<TokenId>(*unknown);
    }
    if (spells_all) bytes_ = byte_ids(vocabulary_, where);
  }

  void encode(std::string_view word, std::vector<Token>& tokens) const override {
    thread_local std::vector<UnigramSegmenter::Segment> segments;
    segments.clear();
    segmenter_.segment(word, segments);
    std::size_t at = 0;
    bool after_unknown = false;
    for (const auto& segment : segments) {
      const bool unknown = segment.id < 0 || segment.id == unknown_;
      if (!unknown) {
        tokens.push_back({segment.id, segment.length});
      } else if (bytes_) {
        for (std::size_t i = at; i < at + segment.length; ++i)
          tokens.push_back({(*bytes_)[static_cast<std::uint8_t>(word[i])], 1});
      } else if (!unknown_) {
        throw DataError(where_, ": a character has no piece, and the model has no unk_id");
      } else if (after_unknown) {
        tokens.back().length += segment.length;
      } else {
        tokens.push_back({*unknown_, segment.length});
      }
      after_unknown = unknown && !bytes_;
      at += segment.length;
    }
  }

 private:
  std::string where_;
  UnigramSegmenter segmenter_;
  std::optional<std::array<TokenId, 256>> bytes_;
};

/// A token a word.
class WordLevelModel : public WordModel {
 public:
  WordLevelModel(const io::Json& json, const std::string& where) : where_(where) {
    const io::Json& vocabulary = member(json, "vocab", where);
    if (!vocabulary.is_object()) throw FormatError(where, ": 'vocab' is not an object");
    vocabulary_.reserve(vocabulary.size());
    for (const auto& [token, id] : vocabulary.items()) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= (1U << 30))
        throw FormatError(where, ": the id of '", token, "' is not a whole number below 2^30");
      vocabulary_.emplace(token, id.get<TokenId>());
    }
    const auto found = vocabulary_.find(field<std::string>(json, "unk_token", where));
    if (found != vocabulary_.end()) unknown_ = found->second;
  }

  void encode(std::string_view word, std::vector<Token>& tokens) const override {
    const auto found = vocabulary_.find(std::string(word));
    if (found == vocabulary_.end() && !unknown_)
      throw DataError(where_, ": the word '", word, "' is not in the vocabulary, nor is the unk_token");
    tokens.push_back(
        {found == vocabulary_.end() ? *unknown_ : found->second, static_cast<std::uint32_t>(word.size())});
  }

 private:
  std::string where_;
};

/// A model of characters behind ByteLevel: it sees the characters that stand for the bytes of a word.
class OfByteCharacters : public WordModel {
 public:
  explicit OfByteCharacters(std::unique_ptr<const WordModel> model) : model_(std::move(model)) {
    vocabulary_ = model_->vocabulary();
    unknown_ = model_->unknown();
  }

  void encode(std::string_view word, std::vector<Token>& tokens) const override {
    std::string text;
    for (const char byte : word) append_utf8(text, character_of_byte(static_cast<std::uint8_t>(byte)));
    const std::size_t first = tokens.size();
    model_->encode(text, tokens);
    std::size_t at = 0;
    for (std::size_t i = first; i < tokens.size(); ++i) {
      const std::size_t length = tokens[i].length;
      tokens[i].length = static_cast<std::uint32_t>(utf8_length(std::string_view(text).substr(at, length)));
      at += length;
    }
  }

 private:
  std::unique_ptr<const WordModel> model_;
};

std::unique_ptr<const WordModel> make(const io::Json& json, const std::string& type, bool byte_level,
                                      const SpecialSpellings& special, const std::string& place) {
  if (type == "BPE") return std::make_unique<BpeModel>(json, byte_level, place);
  if (type == "Unigram") return std::make_unique<UnigramModel>(json, special, place);
  if (type == "WordPiece") return std::make_unique<WordPieceModel>(json, place);
  if (type == "WordLevel") return std::make_unique<WordLevelModel>(json, place);
  throw UnsupportedError(place, ": the type '", type, "' is not supported");
}

/// Whether a BPE spells words otherwise than byte by byte.
bool spells_characters(const io::Json& json, const std::string& place) {
  return optional_field<bool>(json, "byte_fallback", place).value_or(false) ||
         !optional_field<std::string>(json, "continuing_subword_prefix", place).value_or("").empty() ||
         !optional_field<std::string>(json, "end_of_word_suffix", place).value_or("").empty();
}

}  // namespace

std::unique_ptr<const WordModel> make_word_model(const io::Json& json, bool byte_level,
                                                 const SpecialSpellings& special, const std::string& where) {
  const std::string place = where + ": model";
  // Files of older versions have no type: only BPE has merges, only Unigram a list of pieces.
  const bool merges = member(json, "merges", place).is_array();
  const bool pieces = member(json, "vocab", place).is_array();
  const auto type = optional_field<std::string>(json, "type", place)
                        .value_or(merges   ? "BPE"
                                  : pieces ? "Unigram"
                                           : "WordPiece");
  if (byte_level && (type != "BPE" || spells_characters(json, place)))
    return std::make_unique<OfByteCharacters>(make(json, type, false, special, place));
  return make(json, type, byte_level, special, place);
}

}  // namespace bitrain::text
