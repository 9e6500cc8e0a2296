#include <bitrain/vocab/piece_learner.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <queue>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/pair_table.h>
#include <bitrain/text/utf8.h>

namespace bitrain::vocab {
namespace {

using text::CharacterClass;
using text::kSpaceMark;
using text::PieceType;
using text::SpmModel;

/// Whether a string may become a piece: one word, one kind of character, not too long.
bool may_be_piece(std::string_view text, const ExtensionOptions& options) {
  std::int64_t length = 0;
  bool letters = false;
  bool digits = false;
  bool others = false;
  for (std::size_t at = 0; at < text.size();) {
    const text::Utf8Char c = text::utf8_at(text, at);
    if (++length > options.max_piece_length) return false;
    if (text.substr(at, c.length) == kSpaceMark) {
      if (at != 0) return false;
    } else {
      const CharacterClass kind = text::class_of(c.code);
      if (kind == CharacterClass::kDigit)
        digits = true;
      else if (kind == CharacterClass::kLetter || kind == CharacterClass::kMark)
        letters = true;
      else
        others = true;
    }
    at += c.length;
  }
  if (digits && options.split_digits && length > 1) return false;
  return letters + digits + others <= 1;
}

/// Byte-pair training where what is counted and merged is a string, not a pair: SentencePiece joins any two
/// neighbours whose concatenation is a piece, however it is cut.
class Continuation {
 public:
  Continuation(const SpmModel& base, const std::vector<WordCount>& words, const ExtensionOptions& options)
      : options_(options), counts_(words) {
    pieces_.reserve(base.pieces.size());
    for (const text::SpmPiece& piece : base.pieces) {
      // Others never take part in merges.
      const bool merges = piece.type == PieceType::kNormal;
      const auto id = static_cast<std::uint32_t>(pieces_.size());
      pieces_.push_back(merges ? piece.text : std::string());
      if (merges) piece_ids_.emplace(piece.text, id);
    }
    const auto tokenizer = text::make_sentencepiece_tokenizer(base);
    words_.reserve(words.size());
    for (const WordCount& word : words) {
      std::vector<std::uint32_t> ids;
      for (const text::TokenId id : tokenizer->encode_normalized(word.word))
        ids.push_back(static_cast<std::uint32_t>(id));
      words_.push_back(std::move(ids));
    }
    for (std::uint32_t w = 0; w < words_.size(); ++w) count_word(w, +1);
  }

  /// The next piece, or "" when nothing is frequent enough.
  std::string next() {
    while (!queue_.empty()) {
      const Entry top = queue_.top();
      queue_.pop();
      Candidate& candidate = candidates_[top.candidate];
      if (top.count != candidate.count || candidate.count < options_.min_frequency) continue;
      const std::string text = candidate.text;
      piece_ids_.emplace(text, static_cast<std::uint32_t>(pieces_.size()));
      pieces_.push_back(text);
      std::vector<std::uint32_t> words = std::move(candidate.words);
      std::sort(words.begin(), words.end());
      words.erase(std::unique(words.begin(), words.end()), words.end());
      for (const std::uint32_t w : words) merge_word(w, top.candidate);
      return text;
    }
    return {};
  }

 private:
  static constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
  struct Candidate {
    std::string text;
    std::int64_t count = 0;
    std::vector<std::uint32_t> words;  ///< Where it occurs or did.
  };
  struct Entry {
    std::int64_t count;
    std::uint32_t candidate;
    bool operator<(const Entry& other) const {  // Among equals the one seen first.
      return count != other.count ? count < other.count : candidate > other.candidate;
    }
  };

  /// The candidate that two neighbours make, kNone when they may not join.
  std::uint32_t candidate_of(std::uint32_t left, std::uint32_t right) {
    bool inserted = false;
    std::uint32_t& found =
        pair_candidates_.at_or_insert(text::PairTable<std::uint32_t>::pair(left, right), &inserted);
    if (!inserted) return found;
    found = kNone;
    if (pieces_[left].empty() || pieces_[right].empty()) return kNone;
    std::string text = pieces_[left] + pieces_[right];
    if (!may_be_piece(text, options_)) return kNone;
    const auto [entry, is_new] = candidate_ids_.emplace(text, static_cast<std::uint32_t>(candidates_.size()));
    if (is_new) candidates_.push_back({std::move(text), 0, {}});
    return found = entry->second;
  }

  /// Adds (or takes away) the pairs of a word to the counts of their candidates.
  void count_word(std::uint32_t w, std::int64_t sign) {
    const std::vector<std::uint32_t>& word = words_[w];
    for (std::size_t i = 0; i + 1 < word.size(); ++i) {
      const std::uint32_t id = candidate_of(word[i], word[i + 1]);
      if (id == kNone) continue;
      Candidate& candidate = candidates_[id];
      candidate.count += sign * counts_[w].count;
      if (sign > 0) candidate.words.push_back(w);
      touched_.push_back(id);
    }
    if (sign < 0) return;
    for (const std::uint32_t id : touched_) {
      if (candidates_[id].count >= options_.min_frequency && piece_ids_.count(candidates_[id].text) == 0)
        queue_.push({candidates_[id].count, id});
    }
    touched_.clear();
  }

  void merge_word(std::uint32_t w, std::uint32_t merged) {
    bool present = false;
    for (std::size_t i = 0; i + 1 < words_[w].size() && !present; ++i)
      present = candidate_of(words_[w][i], words_[w][i + 1]) == merged;
    if (!present) return;
    count_word(w, -1);
    std::vector<std::uint32_t>& word = words_[w];
    // What becomes possible with older pieces is joined too, as the tokenizer will.
    for (bool again = true; again;) {
      again = false;
      for (std::size_t i = 0; i + 1 < word.size(); ++i) {
        const std::uint32_t id = candidate_of(word[i], word[i + 1]);
        if (id == kNone) continue;
        const auto piece = piece_ids_.find(candidates_[id].text);
        if (piece == piece_ids_.end()) continue;
        word[i] = piece->second;
        word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        again = true;
      }
    }
    count_word(w, +1);
  }

  const ExtensionOptions& options_;
  const std::vector<WordCount>& counts_;
  std::vector<std::string> pieces_;
  std::unordered_map<std::string, std::uint32_t> piece_ids_;
  std::vector<std::vector<std::uint32_t>> words_;
  std::vector<Candidate> candidates_;
  std::unordered_map<std::string, std::uint32_t> candidate_ids_;
  text::PairTable<std::uint32_t> pair_candidates_;
  std::priority_queue<Entry> queue_;
  std::vector<std::uint32_t> touched_;
};

}  // namespace

std::vector<WordCount> count_words(const text::SentencePieceTokenizer& tokenizer,
                                   const text::NextLine& lines) {
  std::vector<WordCount> words;
  std::unordered_map<std::string, std::size_t> places;
  std::int64_t number = 0;
  for (std::string line; lines(line);) {
    ++number;
    if (const std::size_t at = find_invalid_utf8(line); at != std::string_view::npos)
      throw DataError("line ", number, ": byte ", at + 1, " is not UTF-8");
    const std::string normalized = tokenizer.normalize(line);
    const std::string_view text = normalized;
    for (std::size_t begin = 0; begin < text.size();) {
      std::size_t end = begin;
      while (text.substr(end, kSpaceMark.size()) == kSpaceMark) end += kSpaceMark.size();
      end = std::min(text.find(kSpaceMark, end), text.size());
      std::string word(text.substr(begin, end - begin));
      const auto [place, is_new] = places.emplace(word, words.size());
      if (is_new) words.push_back({std::move(word), 0});
      ++words[place->second].count;
      begin = end;
    }
  }
  if (words.empty()) throw DataError("there is no text to learn pieces from");
  return words;
}

std::vector<std::string> missing_characters(const SpmModel& model, const std::vector<WordCount>& words,
                                            double coverage, std::int64_t min_frequency) {
  std::map<std::string, std::int64_t> counts;
  std::int64_t total = 0;
  for (const WordCount& word : words) {
    for (std::size_t at = 0; at < word.word.size();) {
      const std::size_t length = text::utf8_at(word.word, at).length;
      counts[word.word.substr(at, length)] += word.count;
      total += word.count;
      at += length;
    }
  }
  std::int64_t covered = 0;
  for (const text::SpmPiece& piece : model.pieces) {
    const auto found = counts.find(piece.text);
    if (found == counts.end()) continue;
    covered += found->second;
    counts.erase(found);
  }
  std::vector<std::pair<std::string, std::int64_t>> missing(counts.begin(), counts.end());
  std::stable_sort(missing.begin(), missing.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<std::string> characters;
  for (const auto& [character, count] : missing) {
    if (static_cast<double>(covered) >= coverage * static_cast<double>(total) || count < min_frequency) break;
    covered += count;
    characters.push_back(character);
  }
  return characters;
}

std::vector<std::string> continue_merging(const SpmModel& base, const std::vector<WordCount>& words,
                                          const ExtensionOptions& options) {
  const auto limit = static_cast<std::size_t>(options.pieces);
  std::vector<std::string> pieces =
      missing_characters(base, words, options.character_coverage, options.min_frequency);
  if (pieces.size() > limit) pieces.resize(limit);
  Continuation continuation(append_below(base, pieces), words, options);
  while (pieces.size() < limit) {
    std::string piece = continuation.next();
    if (piece.empty()) break;
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

SpmModel append_below(const SpmModel& base, const std::vector<std::string>& pieces) {
  SpmModel extended = base;
  std::vector<text::SpmPiece> more;
  float score = base.lowest_score();
  for (const std::string& piece : pieces) {
    // Steps of one, and of more where float32 could not tell neighbours apart.
    score = std::min(score - 1.0F, std::nextafter(score, -std::numeric_limits<float>::infinity()));
    more.push_back({piece, score, PieceType::kNormal, {}});
  }
  extended.append(more);
  return extended;
}

}  // namespace bitrain::vocab
