#include <bitrain/objectives/masking.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include <bitrain/base/batch.h>
#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/fields/check.h>
#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/text/utf8.h>

namespace bitrain::objectives {
namespace {

using text::TokenId;

constexpr std::string_view kByteLevelSpace = "\xC4\xA0";  // "Ġ", a space in byte-level vocabularies.

/// Scripts whose words have no spaces between them: Thai and Lao, Burmese, Khmer, Kana, Han.
bool is_written_without_spaces(std::string_view piece) {
  if (piece.empty()) return false;
  const std::uint32_t code = text::utf8_at(piece, 0).code;
  const auto within = [&](std::uint32_t first, std::uint32_t last) { return code >= first && code <= last; };
  return within(0x0E00, 0x0EFF) || within(0x1000, 0x109F) || within(0x1780, 0x17FF) ||
         within(0x3040, 0x30FF) || within(0x3400, 0x4DBF) || within(0x4E00, 0x9FFF) ||
         within(0xF900, 0xFAFF) || within(0x20000, 0x3FFFF);
}

/// The spelling of every id; none where the vocabulary has a gap.
std::vector<std::optional<std::string>> pieces_of(const text::Tokenizer& tokenizer) {
  std::vector<std::optional<std::string>> pieces(static_cast<std::size_t>(tokenizer.vocab_size()));
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    try {
      pieces[id] = tokenizer.id_to_piece(static_cast<TokenId>(id));
    } catch (const DataError&) {
    }
  }
  return pieces;
}

std::vector<TokenId> special_ids(const text::Tokenizer& tokenizer) {
  const text::SpecialTokens& special = tokenizer.special_tokens();
  std::vector<TokenId> ids;
  for (const auto& id :
       {special.bos, special.eos, special.unk, special.pad, special.cls, special.sep, special.mask}) {
    if (id) ids.push_back(*id);
  }
  const text::InputTemplate& frame = tokenizer.input_template();
  for (const auto* items : {&frame.single, &frame.pair}) {
    for (const text::InputTemplate::Item& item : *items) {
      if (item.kind == text::InputTemplate::Kind::kSpecial) ids.push_back(item.id);
    }
  }
  return ids;
}

/// Says of a piece whether a word begins with it.
class WordStarts {
 public:
  WordStarts(const text::Tokenizer& tokenizer, const std::vector<std::optional<std::string>>& pieces) {
    const auto* hf = dynamic_cast<const text::HfTokenizer*>(&tokenizer);
    if (hf != nullptr && hf->wordpiece() != nullptr) {
      continuation_ = hf->wordpiece()->prefix();
      return;
    }
    const auto count = [&](std::string_view mark) {
      return std::count_if(pieces.begin(), pieces.end(),
                           [&](const auto& piece) { return piece && starts_with(*piece, mark); });
    };
    const auto marked = count(text::kSpaceMark);
    const auto byte_level = count(kByteLevelSpace);
    if (marked == 0 && byte_level == 0) {
      throw UnsupportedError(
          "masking: the pieces of this tokenizer do not say where words begin; set whole_words: false");
    }
    start_ = marked >= byte_level ? text::kSpaceMark : kByteLevelSpace;
  }

  /// `text`: what a byte-level piece stands for; only looked at there.
  [[nodiscard]] bool operator()(std::string_view piece, std::string_view text) const {
    if (!continuation_.empty()) {
      if (!starts_with(piece, continuation_)) return true;
      return is_written_without_spaces(piece.substr(continuation_.size()));
    }
    return starts_with(piece, start_) || is_written_without_spaces(byte_level() ? text : piece);
  }
  /// Pieces are spelt in the byte-level alphabet: what they stand for must be looked at, too.
  [[nodiscard]] bool byte_level() const { return start_ == kByteLevelSpace; }

 private:
  std::string continuation_;
  std::string_view start_;
};

/// The tokens of each word.
std::vector<std::vector<std::size_t>> positions_of(const std::vector<std::int32_t>& words) {
  std::vector<std::vector<std::size_t>> positions;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == kNoWord) continue;
    const auto word = static_cast<std::size_t>(words[i]);
    if (word >= positions.size()) positions.resize(word + 1);
    positions[word].push_back(i);
  }
  return positions;
}

/// The words to predict, as their tokens.
std::vector<std::vector<std::size_t>> choose(const std::vector<std::vector<std::size_t>>& words,
                                             const MaskingOptions& options, RandomStream& random) {
  std::vector<std::size_t> order(words.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);

  std::size_t tokens = 0;
  for (const auto& word : words) tokens += word.size();
  const auto most = static_cast<std::size_t>(options.max_predictions);
  const auto wanted = static_cast<std::size_t>(std::llround(options.share * static_cast<double>(tokens)));
  std::size_t room = std::min(most, std::max<std::size_t>(1, wanted));
  std::vector<std::vector<std::size_t>> chosen;
  for (const std::size_t word : order) {
    if (words[word].empty() || words[word].size() > room) continue;
    room -= words[word].size();
    chosen.push_back(words[word]);
  }
  if (!chosen.empty()) return chosen;
  // No word is short enough: the first of at most max_predictions tokens; else as much of one as fits.
  const auto first = std::find_if(order.begin(), order.end(), [&](std::size_t word) {
    return !words[word].empty() && words[word].size() <= most;
  });
  if (first != order.end()) return {words[*first]};
  for (const std::size_t word : order)
    if (!words[word].empty())
      return {{words[word].begin(), words[word].begin() + static_cast<std::ptrdiff_t>(room)}};
  return {};
}

}  // namespace

void check(const MaskingOptions& options) {
  check_fields(options, "masking.");
  if (options.mask_share + options.random_share > 1) {
    throw ConfigError("masking: mask_share (", options.mask_share, ") and random_share (",
                      options.random_share, ") must add up to at most 1");
  }
}

MaskingVocabulary::MaskingVocabulary(const text::Tokenizer& tokenizer, bool whole_words) {
  if (!tokenizer.special_tokens().mask)
    throw ConfigError("masking: the tokenizer has no mask token; it is none of a masked language model");
  mask_ = *tokenizer.special_tokens().mask;
  const auto pieces = pieces_of(tokenizer);
  std::optional<WordStarts> starts;
  if (whole_words) starts.emplace(tokenizer, pieces);
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const auto& piece = pieces[id];
    if (!piece) {
      roles_.push_back(Role::kSpecial);
      continue;
    }
    const std::string text =
        starts && starts->byte_level() ? tokenizer.decode({static_cast<TokenId>(id)}) : std::string();
    roles_.push_back(!starts || (*starts)(*piece, text) ? Role::kStart : Role::kContinuation);
  }
  for (const TokenId id : special_ids(tokenizer)) roles_.at(static_cast<std::size_t>(id)) = Role::kSpecial;
  for (std::size_t id = 0; id < roles_.size(); ++id)
    if (roles_[id] != Role::kSpecial) ordinary_.push_back(static_cast<TokenId>(id));
  if (ordinary_.empty()) throw ConfigError("masking: the tokenizer has special tokens only");
}

std::vector<std::int32_t> MaskingVocabulary::words(const std::vector<TokenId>& ids) const {
  std::vector<std::int32_t> words;
  words.reserve(ids.size());
  std::int32_t count = 0;
  for (const TokenId id : ids) {
    if (id < 0 || static_cast<std::size_t>(id) >= roles_.size())
      throw DataError("masking: token ", id, " is outside the vocabulary of ", roles_.size());
    const Role role = roles_[static_cast<std::size_t>(id)];
    const bool goes_on = role == Role::kContinuation && !words.empty() && words.back() != kNoWord;
    words.push_back(role == Role::kSpecial ? kNoWord : goes_on ? count - 1 : count++);
  }
  return words;
}

MaskedTokens mask_words(const std::vector<TokenId>& ids, const std::vector<std::int32_t>& words,
                        const MaskingVocabulary& vocabulary, const MaskingOptions& options,
                        RandomStream random) {
  if (words.size() != ids.size())
    throw StateError("masking: ", ids.size(), " tokens have ", words.size(), " word numbers");
  const std::vector<std::vector<std::size_t>> positions = positions_of(words);
  MaskedTokens masked{ids, std::vector<TokenId>(ids.size(), static_cast<TokenId>(kIgnoreIndex))};
  const std::vector<TokenId>& ordinary = vocabulary.ordinary();
  for (const std::vector<std::size_t>& word : choose(positions, options, random)) {
    for (const std::size_t i : word) {
      masked.labels[i] = ids[i];
      const double draw = random.uniform();
      if (draw < options.mask_share)
        masked.ids[i] = vocabulary.mask();
      else if (draw < options.mask_share + options.random_share)
        masked.ids[i] = ordinary[random.below(ordinary.size())];
    }
  }
  return masked;
}

}  // namespace bitrain::objectives
