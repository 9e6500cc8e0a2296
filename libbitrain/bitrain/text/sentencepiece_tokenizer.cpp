#include <bitrain/text/sentencepiece_tokenizer.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <numeric>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/text/bpe.h>
#include <bitrain/text/charsmap.h>
#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/text/sentencepiece_folder.h>
#include <bitrain/text/tokenizer_json.h>
#include <bitrain/text/unigram.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

/// Text as the segmenter sees it and where each byte of it came from.
struct Normalized {
  std::string text;
  std::vector<std::uint32_t> origin;  ///< [text.size() + 1] bytes of the input; empty when not asked for.
};

/// A piece of the normalised text; `id` is -1 where there is none.
using Segment = UnigramSegmenter::Segment;

constexpr std::uint32_t kUnknownSymbol = BpeMerger::kNoSymbol;

/// Whether a "▁" comes after another character: such a piece crosses words.
bool crosses_words(std::string_view piece) {
  std::size_t at = 0;
  while (piece.substr(at, kSpaceMark.size()) == kSpaceMark) at += kSpaceMark.size();
  return piece.find(kSpaceMark, at) != std::string_view::npos;
}

}  // namespace

struct SentencePieceTokenizer::State {
  SpmModel model;
  CharsMap charsmap;
  std::unordered_map<std::string_view, TokenId> ids;
  SpecialTokens special;
  TokenId unknown = 0;
  InputTemplate input_template;
  std::array<TokenId, 256> byte_ids{};
  ByteTrie user_defined;
  bool splits_words = true;  ///< No piece crosses words, so that each can be segmented by itself.

  UnigramSegmenter unigram;
  BpeMerger merger;
  std::array<std::uint32_t, 128> ascii_symbols{};
  ByteTrie special_pieces;  ///< Control pieces and the unknown one.
  mutable std::once_flag json_made;
  mutable std::shared_ptr<const HfTokenizer> json_tokenizer;

  PairTable<std::uint32_t> symbols;  ///< Character to BPE symbol: a piece, or a number above all pieces.

  SentencePieceOrigin home;
  ByteTrie added_tokens;  ///< Those that are no special tokens; texts with one are cut by as_json().
  std::unordered_set<TokenId> special_ids;  ///< Decode to nothing.

  State(SpmModel given, SentencePieceOrigin from) : model(std::move(given)), home(std::move(from)) {
    if (model.type != SpmType::kBpe && model.type != SpmType::kUnigram)
      throw UnsupportedError(
          "SentencePiece models of type word and char are not supported, only bpe and unigram");
    if (model.treat_whitespace_as_suffix)
      throw UnsupportedError("SentencePiece models with white space as a suffix are not supported");
    charsmap = CharsMap(model.precompiled_charsmap, "SentencePiece model");
    if (home.json != nullptr) take_added_tokens();
    index_pieces();
    if (home.json != nullptr) {
      special = home.json->special_tokens();
      input_template = home.json->input_template();
    }
    if (model.type == SpmType::kUnigram)
      build_unigram();
    else
      build_bpe();
  }

  void index_pieces() {
    ids.reserve(model.pieces.size());
    for (std::size_t i = 0; i < model.pieces.size(); ++i) {
      const SpmPiece& piece = model.pieces[i];
      const auto id = static_cast<TokenId>(i);
      ids.emplace(piece.text, id);
      if (piece.type == PieceType::kUnknown) special.unk = unknown = id;
      if (piece.type == PieceType::kUnknown || piece.type == PieceType::kControl)
        special_pieces.add(piece.text, id);
      if (piece.type == PieceType::kByte) byte_ids[*byte_of_piece(piece.text)] = id;
      if (is_user_defined(i)) {
        user_defined.add(piece.text, id);
        if (piece.text.find(kSpaceMark) != std::string::npos) splits_words = false;
      }
      if (piece.type == PieceType::kNormal && crosses_words(piece.text)) splits_words = false;
      if (piece.type != PieceType::kControl) continue;
      if (piece.text == model.bos_piece) special.bos = id;
      if (piece.text == model.eos_piece) special.eos = id;
      if (piece.text == model.pad_piece) special.pad = id;
    }
    if (!special.bos) return;
    using Kind = InputTemplate::Kind;
    const InputTemplate::Item bos{Kind::kSpecial, *special.bos, 0};
    input_template.single = {bos, {Kind::kFirst, 0, 0}};
    input_template.pair = {bos, {Kind::kFirst, 0, 0}, bos, {Kind::kSecond, 0, 1}};
  }

  /// A piece that the folder makes a special token is none in texts.
  [[nodiscard]] bool is_user_defined(std::size_t id) const {
    return model.pieces[id].type == PieceType::kUserDefined &&
           special_ids.count(static_cast<TokenId>(id)) == 0;
  }

  void take_added_tokens() {
    for (const AddedToken& token : home.json->added_tokens()) {
      if (token.special) {
        special_pieces.add(token.content, token.id);
        special_ids.insert(token.id);
      } else {
        added_tokens.add(token.content, token.id);
      }
    }
  }

  /// Whether the ids of a text are those of as_json().
  [[nodiscard]] bool is_cut(std::string_view text) const {
    if (home.spaces_differ && (text.substr(0, 1) == " " || text.substr(0, kSpaceMark.size()) == kSpaceMark))
      return true;
    if (added_tokens.empty()) return false;
    for (std::size_t at = 0; at < text.size(); ++at)
      if (added_tokens.longest(text, at).first > 0) return true;
    return false;
  }

  void build_unigram() {
    for (std::size_t i = 0; i < model.pieces.size(); ++i) {
      const SpmPiece& piece = model.pieces[i];
      const bool user = is_user_defined(i);
      if (user || piece.type == PieceType::kNormal)
        unigram.add(piece.text, static_cast<std::int32_t>(i), piece.score, user);
    }
  }

  /// SentencePiece merges any neighbours whose concatenation is a piece: all pairs that make a piece get its
  /// rank. Characters that occur in pieces but are none get numbers above the pieces.
  void build_bpe() {
    std::unordered_map<std::string_view, std::uint32_t> numbers;
    std::vector<std::uint32_t> order;
    auto next_number = static_cast<std::uint32_t>(model.pieces.size());
    for (std::uint32_t i = 0; i < model.pieces.size(); ++i) {
      const SpmPiece& piece = model.pieces[i];
      if (piece.type == PieceType::kUnused)
        throw UnsupportedError("BPE models with unused pieces are not supported; there is '", piece.text,
                               "'");
      if (piece.type != PieceType::kNormal) continue;
      numbers.emplace(piece.text, i);
      order.push_back(i);
    }
    ascii_symbols.fill(kUnknownSymbol);
    for (const std::uint32_t i : order) {
      const std::string_view text = model.pieces[i].text;
      for (std::size_t at = 0; at < text.size();) {
        const Utf8Char c = utf8_at(text, at);
        const auto [found, is_new] = numbers.emplace(text.substr(at, c.length), next_number);
        next_number += is_new;
        if (c.code < 128) ascii_symbols[c.code] = found->second;
        symbols.at_or_insert(c.code) = found->second;
        at += c.length;
      }
    }
    std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
      return model.pieces[a].score > model.pieces[b].score;
    });
    std::uint32_t rank = 0;
    for (std::size_t n = 0; n < order.size(); ++n) {
      const std::string_view text = model.pieces[order[n]].text;
      if (n > 0 && model.pieces[order[n]].score < model.pieces[order[n - 1]].score) ++rank;
      for (std::size_t cut = utf8_at(text, 0).length; cut < text.size(); cut += utf8_at(text, cut).length) {
        const auto left = numbers.find(text.substr(0, cut));
        if (left == numbers.end()) continue;
        const auto right = numbers.find(text.substr(cut));
        if (right != numbers.end()) merger.add(left->second, right->second, rank, order[n]);
      }
    }
  }

  /// One step of normalisation: what the bytes at `at` become, and how many they are.
  [[nodiscard]] std::pair<std::string_view, std::size_t> step(std::string_view text, std::size_t at) const {
    if (!user_defined.empty()) {
      const auto [length, id] = user_defined.longest(text, at);
      if (length > 0) return {text.substr(at, length), length};
    }
    const auto [length, mapped] = charsmap.longest(text, at);
    if (length > 0) return {mapped, length};
    const Utf8Char c = utf8_at(text, at);
    return {c.valid ? text.substr(at, c.length) : kReplacement, c.length};
  }

  /// As libsentencepiece's normaliser does.
  [[nodiscard]] Normalized normalize(std::string_view text, bool with_origin) const {
    Normalized result;
    const std::string_view space = model.escape_whitespaces ? kSpaceMark : std::string_view(" ");
    result.text.reserve(text.size() + text.size() / 4 + 8);
    const auto put = [&](std::string_view piece, std::size_t from) {
      result.text += piece;
      if (with_origin)
        result.origin.insert(result.origin.end(), piece.size(), static_cast<std::uint32_t>(from));
    };
    std::size_t at = 0;
    if (model.remove_extra_whitespaces) {
      while (at < text.size()) {
        const auto [piece, length] = step(text, at);
        if (piece != " ") break;
        at += length;
      }
    }
    if (at == text.size()) {
      if (with_origin) result.origin.push_back(static_cast<std::uint32_t>(at));
      return result;
    }
    if (model.add_dummy_prefix) put(space, at);
    bool after_space = model.remove_extra_whitespaces;
    while (at < text.size()) {
      auto [piece, length] = step(text, at);
      while (after_space && !piece.empty() && piece.front() == ' ') piece.remove_prefix(1);
      for (std::size_t i = 0; i < piece.size();) {
        const std::size_t next = std::min(piece.find(' ', i), piece.size());
        put(piece.substr(i, next - i), at);
        if (next < piece.size()) put(space, at);
        i = next + 1;
      }
      if (!piece.empty()) after_space = model.remove_extra_whitespaces && piece.back() == ' ';
      at += length;
    }
    if (model.remove_extra_whitespaces) {
      while (result.text.size() >= space.size() &&
             std::string_view(result.text).substr(result.text.size() - space.size()) == space) {
        result.text.resize(result.text.size() - space.size());
        if (with_origin) at = result.origin[result.text.size()];
      }
    }
    if (with_origin) {
      result.origin.resize(result.text.size());
      result.origin.push_back(static_cast<std::uint32_t>(at));
    }
    return result;
  }

  /// Whether a special piece is spelled inside `markup`.
  [[nodiscard]] bool has_special(std::string_view text, const std::vector<Offset>& markup) const {
    return std::any_of(markup.begin(), markup.end(), [&](const Offset& range) {
      const auto end = std::min(static_cast<std::size_t>(range.end), text.size());
      for (auto at = static_cast<std::size_t>(range.begin); at < end; ++at)
        if (special_pieces.longest(text.substr(0, end), at).first > 0) return true;
      return false;
    });
  }

  /// The same tokenizer as a tokenizer.json: it cuts texts at added tokens as AutoTokenizer does.
  [[nodiscard]] const HfTokenizer& as_json() const {
    std::call_once(json_made, [this] { json_tokenizer = make_json(); });
    return *json_tokenizer;
  }

  [[nodiscard]] std::shared_ptr<const HfTokenizer> make_json() const {
    if (home.json != nullptr && home.as_read) return home.json;
    if (home.json == nullptr)
      return make_hf_tokenizer(tokenizer_json(model).dump(), special_tokens_map_json(model),
                               "tokenizer.json of tokenizer.model");
    return extended_json(model, home);
  }

  [[nodiscard]] std::uint32_t symbol_of(std::uint32_t code) const {
    if (code < 128) return ascii_symbols[code];
    const std::uint32_t* symbol = symbols.find(code);
    return symbol != nullptr ? *symbol : kUnknownSymbol;
  }

  void merge_word(std::string_view word, std::vector<BpeMerger::Symbol>& buffer,
                  std::vector<Segment>& segments) const {
    buffer.clear();
    for (std::size_t at = 0; at < word.size();) {
      if (!user_defined.empty()) {
        const auto [length, id] = user_defined.longest(word, at);
        if (length > 0) {  // Takes part in no merge.
          buffer.push_back({static_cast<std::uint32_t>(id), static_cast<std::uint32_t>(length)});
          at += length;
          continue;
        }
      }
      const Utf8Char c = utf8_at(word, at);
      buffer.push_back({symbol_of(c.code), c.length});
      at += c.length;
    }
    merger.merge(buffer);
    for (const BpeMerger::Symbol& symbol : buffer)
      segments.push_back(
          {symbol.id < model.pieces.size() ? static_cast<std::int32_t>(symbol.id) : -1, symbol.length});
  }

  [[nodiscard]] std::vector<Segment> segment(std::string_view text) const {
    std::vector<Segment> segments;
    segments.reserve(text.size() / 3 + 4);
    if (model.type == SpmType::kUnigram) {
      unigram.segment(text, segments);
      return segments;
    }
    std::vector<BpeMerger::Symbol> buffer;
    if (!splits_words) {
      merge_word(text, buffer, segments);
      return segments;
    }
    for (std::size_t begin = 0; begin < text.size();) {
      std::size_t end = begin;
      while (text.substr(end, kSpaceMark.size()) == kSpaceMark) end += kSpaceMark.size();
      end = std::min(text.find(kSpaceMark, end), text.size());
      merge_word(text.substr(begin, end - begin), buffer, segments);
      begin = end;
    }
    return segments;
  }

  /// Segments to ids: text without a piece becomes bytes, or one unknown token for a run of it.
  template <class Emit>
  void emit_ids(std::string_view text, const std::vector<Segment>& segments, Emit&& emit) const {
    std::size_t at = 0;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      std::size_t length = segments[i].length;
      if (segments[i].id >= 0) {
        emit(segments[i].id, at, at + length);
      } else if (model.byte_fallback) {
        for (std::size_t k = 0; k < length; ++k)
          emit(byte_ids[static_cast<std::uint8_t>(text[at + k])], at + k, at + k + 1);
      } else {
        while (i + 1 < segments.size() && segments[i + 1].id < 0) length += segments[++i].length;
        emit(unknown, at, at + length);
      }
      at += length;
    }
  }
};

SentencePieceTokenizer::SentencePieceTokenizer(SpmModel model)
    : SentencePieceTokenizer(std::move(model), SentencePieceOrigin{}) {}
SentencePieceTokenizer::SentencePieceTokenizer(SpmModel model, SentencePieceOrigin origin)
    : state_(std::make_unique<const State>(std::move(model), std::move(origin))) {}
SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::int64_t SentencePieceTokenizer::vocab_size() const {
  return static_cast<std::int64_t>(state_->model.pieces.size());
}

std::string SentencePieceTokenizer::normalize(std::string_view text) const {
  return state_->normalize(text, false).text;
}

std::vector<TokenId> SentencePieceTokenizer::encode_normalized(std::string_view normalized) const {
  const std::vector<Segment> segments = state_->segment(normalized);
  std::vector<TokenId> ids;
  ids.reserve(segments.size());
  state_->emit_ids(normalized, segments, [&](TokenId id, std::size_t, std::size_t) { ids.push_back(id); });
  return ids;
}

std::vector<TokenId> SentencePieceTokenizer::encode(std::string_view text) const {
  if (state_->is_cut(text)) return state_->as_json().encode(text);
  return encode_normalized(state_->normalize(text, false).text);
}

Encoding SentencePieceTokenizer::encode_with_offsets(std::string_view text) const {
  if (state_->is_cut(text)) return state_->as_json().encode_with_offsets(text);
  const Normalized normalized = state_->normalize(text, true);
  const auto& origin = normalized.origin;
  Encoding encoding;
  state_->emit_ids(
      normalized.text, state_->segment(normalized.text), [&](TokenId id, std::size_t begin, std::size_t end) {
        encoding.ids.push_back(id);
        // Inside a character all bytes have one origin: a byte piece is moved by its place in it.
        std::size_t first = begin;
        while (first > 0 && (static_cast<std::uint8_t>(normalized.text[first]) & 0xC0U) == 0x80U) --first;
        std::size_t last = end;
        while (last < normalized.text.size() &&
               (static_cast<std::uint8_t>(normalized.text[last]) & 0xC0U) == 0x80U)
          ++last;
        std::uint32_t from = origin[first];
        std::uint32_t to = origin[last];
        if (to - from == last - first) {
          from += static_cast<std::uint32_t>(begin - first);
          to -= static_cast<std::uint32_t>(last - end);
        }
        encoding.offsets.push_back({static_cast<std::int32_t>(from), static_cast<std::int32_t>(to)});
      });
  return encoding;
}

Encoding SentencePieceTokenizer::encode_markup(std::string_view text,
                                               const std::vector<Offset>& markup) const {
  if (!state_->has_special(text, markup)) return encode_with_offsets(text);
  return state_->as_json().encode_markup(text, markup);
}

std::string SentencePieceTokenizer::decode(const std::vector<TokenId>& ids) const {
  const SpmModel& model = state_->model;
  std::string text;
  std::string bytes;  // Of a run of byte pieces.
  bool at_begin = model.add_dummy_prefix || model.remove_extra_whitespaces;
  const auto flush = [&] {
    if (bytes.empty()) return;
    text += replace_invalid_utf8(bytes);
    bytes.clear();
    at_begin = false;
  };
  for (const TokenId id : ids) {
    if (id < 0 || id >= vocab_size())
      throw DataError("the id ", id, " is outside the vocabulary of ", vocab_size(), " pieces");
    const SpmPiece& piece = model.pieces[static_cast<std::size_t>(id)];
    if (piece.type == PieceType::kByte) {
      bytes += static_cast<char>(*byte_of_piece(piece.text));
      continue;
    }
    flush();
    if (piece.type == PieceType::kControl ||
        (piece.type != PieceType::kUnknown && state_->special_ids.count(id) != 0))
      continue;
    if (piece.type == PieceType::kUnknown) {
      text += model.unk_surface;
      at_begin = false;
      continue;
    }
    std::string_view rest = piece.text;
    if (at_begin && rest.substr(0, kSpaceMark.size()) == kSpaceMark) {
      rest.remove_prefix(kSpaceMark.size());
      at_begin = model.remove_extra_whitespaces;  // Then all leading spaces go.
    }
    while (!rest.empty()) {
      const std::size_t mark = std::min(rest.find(kSpaceMark), rest.size());
      text += rest.substr(0, mark);
      if (mark == rest.size()) break;
      text += ' ';
      rest.remove_prefix(mark + kSpaceMark.size());
    }
    if (!text.empty()) at_begin = false;
  }
  flush();
  return text;
}

std::string SentencePieceTokenizer::id_to_piece(TokenId id) const {
  if (id < 0 || id >= vocab_size())
    throw DataError("the id ", id, " is outside the vocabulary of ", vocab_size(), " pieces");
  return state_->model.pieces[static_cast<std::size_t>(id)].text;
}

std::optional<TokenId> SentencePieceTokenizer::piece_to_id(std::string_view piece) const {
  const auto found = state_->ids.find(piece);
  if (found == state_->ids.end()) return std::nullopt;
  return found->second;
}

const SpecialTokens& SentencePieceTokenizer::special_tokens() const {
  return state_->special;
}

const InputTemplate& SentencePieceTokenizer::input_template() const {
  return state_->input_template;
}

const SpmModel& SentencePieceTokenizer::model() const {
  return state_->model;
}

std::shared_ptr<const SentencePieceTokenizer> SentencePieceTokenizer::with_model(SpmModel extended) const {
  SentencePieceOrigin origin = state_->home;
  origin.as_read = false;
  return std::make_shared<const SentencePieceTokenizer>(std::move(extended), std::move(origin));
}

void SentencePieceTokenizer::save(const std::filesystem::path& dir) const {
  if (state_->home.json == nullptr)
    write_tokenizer_files(state_->model, dir);
  else
    write_sentencepiece_folder(state_->model, state_->home, state_->as_json(), dir);
}

std::shared_ptr<const SentencePieceTokenizer> make_sentencepiece_tokenizer(SpmModel model) {
  return std::make_shared<const SentencePieceTokenizer>(std::move(model));
}

}  // namespace bitrain::text
