#include <bitrain/vocab/wordpiece_learner.h>

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include <bitrain/base/strings.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/utf8.h>

namespace bitrain::vocab {
namespace {

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

/// Whether a text may be a piece: one kind of character, not too long.
bool may_be_piece(std::string_view text, const ExtensionOptions& options) {
  std::int64_t length = 0;
  bool letters = false;
  bool digits = false;
  bool others = false;
  for (std::size_t at = 0; at < text.size();) {
    const text::Utf8Char c = text::utf8_at(text, at);
    switch (text::class_of(c.code)) {
      case text::CharacterClass::kLetter:
      case text::CharacterClass::kMark: letters = true; break;
      case text::CharacterClass::kDigit: digits = true; break;
      default: others = true; break;
    }
    ++length;
    at += c.length;
  }
  return length <= options.max_piece_length && !(digits && options.split_digits && length > 1) &&
         letters + digits + others <= 1;
}

}  // namespace

WordPieceLearner::WordPieceLearner(const text::WordPieceModel& base, const std::vector<WordCount>& words,
                                   const ExtensionOptions& options)
    : options_(options), prefix_(base.prefix()), max_characters_(base.max_input_characters()) {
  // In the order of their ids, so that nothing depends on that of a hash table.
  std::vector<std::pair<text::TokenId, std::string>> old;
  for (const auto& [spelling, id] : base.vocabulary()) {
    if (!spelling.empty()) old.emplace_back(id, spelling);
  }
  std::sort(old.begin(), old.end());
  for (auto& [id, spelling] : old) add_piece(std::move(spelling));
  add_missing_characters(words);
  for (const WordCount& word : words) {
    // The prefix as text, which is no such thing; rare, and not worth the care.
    if (!prefix_.empty() && starts_with(word.word, prefix_)) continue;
    Word entry{word.word, word.count, {}};
    // A word of one piece stays that; one that cannot be cut teaches nothing.
    if (cut(entry.text, entry.pieces) && entry.pieces.size() > 1) words_.push_back(std::move(entry));
  }
  for (Id word = 0; word < words_.size(); ++word) count_word(word, +1);
  queue_touched();
}

/// Takes the prefix off a spelling; whether it had one.
bool WordPieceLearner::take_prefix(std::string_view& spelling) const {
  if (spelling.size() <= prefix_.size() || !starts_with(spelling, prefix_)) return false;
  spelling.remove_prefix(prefix_.size());
  return true;
}

WordPieceLearner::Id WordPieceLearner::add_piece(std::string spelling) {
  pieces_.push_back({std::move(spelling), 0, false, false, {}});
  const auto id = static_cast<Id>(pieces_.size() - 1);
  set_active(id, true);
  return id;
}

/// Whether words are cut with the piece.
void WordPieceLearner::set_active(Id piece, bool active) {
  const auto set = [&](text::ByteTrie& trie, std::string_view key) {
    if (active)
      trie.add(key, static_cast<std::int32_t>(piece));
    else
      trie.remove(key);
  };
  std::string_view text = pieces_[piece].spelling;
  set(starts_, text);
  if (take_prefix(text)) set(continuations_, text);
}

/// Without a piece for a character every word with it is unknown: the most frequent of them, at the start of
/// a word and within, as many as coverage asks for.
void WordPieceLearner::add_missing_characters(const std::vector<WordCount>& words) {
  std::map<std::string, std::int64_t> counts;
  std::int64_t total = 0;
  for (const WordCount& word : words) {
    for (std::size_t at = 0; at < word.word.size();) {
      const std::size_t length = text::utf8_at(word.word, at).length;
      counts[(at == 0 ? "" : prefix_) + word.word.substr(at, length)] += word.count;
      total += word.count;
      at += length;
    }
  }
  std::int64_t covered = 0;
  for (const Piece& piece : pieces_) {
    const auto found = counts.find(piece.spelling);
    if (found == counts.end()) continue;
    covered += found->second;
    counts.erase(found);
  }
  std::vector<std::pair<std::string, std::int64_t>> missing(counts.begin(), counts.end());
  std::stable_sort(missing.begin(), missing.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [character, count] : missing) {
    if (static_cast<double>(covered) >= options_.character_coverage * static_cast<double>(total) ||
        count < options_.min_frequency || live_ == options_.pieces)
      break;
    covered += count;
    Piece& piece = pieces_[add_piece(character)];
    piece.learned = piece.character = true;
    ++live_;
  }
}

/// As WordPieceModel does; false for an unknown word.
bool WordPieceLearner::cut(std::string_view word, std::vector<Id>& pieces) const {
  pieces.clear();
  if (text::utf8_length(word) > max_characters_) return false;
  for (std::size_t at = 0; at < word.size();) {
    const auto [length, id] = (at == 0 ? starts_ : continuations_).longest(word, at);
    if (length == 0) return false;
    pieces.push_back(static_cast<Id>(id));
    at += length;
  }
  return true;
}

/// The candidate that two neighbours make, kNone when they may not join.
WordPieceLearner::Id WordPieceLearner::candidate_of(Id left, Id right) {
  bool inserted = false;
  Id& found = pair_candidates_.at_or_insert(text::PairTable<Id>::pair(left, right), &inserted);
  if (!inserted) return found;
  found = kNone;
  std::string spelling = pieces_[left].spelling + pieces_[right].spelling.substr(prefix_.size());
  std::string_view text = spelling;
  static_cast<void>(take_prefix(text));
  if (!may_be_piece(text, options_)) return kNone;
  const auto [entry, is_new] = candidate_ids_.emplace(spelling, static_cast<Id>(candidates_.size()));
  if (is_new) candidates_.push_back({std::move(spelling), 0, false});
  return found = entry->second;
}

/// Adds (or takes away) a word's pieces and pairs.
void WordPieceLearner::count_word(Id word, std::int64_t sign) {
  const std::int64_t count = sign * words_[word].count;
  const std::vector<Id>& pieces = words_[word].pieces;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    Piece& piece = pieces_[pieces[i]];
    piece.uses += count;
    if (sign > 0 && (piece.words.empty() || piece.words.back() != word)) piece.words.push_back(word);
    if (i + 1 == pieces.size()) break;
    const Id id = candidate_of(pieces[i], pieces[i + 1]);
    if (id == kNone || candidates_[id].taken) continue;
    candidates_[id].count += count;
    touched_.push_back(id);
  }
}

/// Queues candidates with their new counts; entries with older ones are passed over later.
void WordPieceLearner::queue_touched() {
  std::sort(touched_.begin(), touched_.end());
  touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
  for (const Id id : touched_) {
    if (candidates_[id].count >= options_.min_frequency) queue_.push({candidates_[id].count, id});
  }
  touched_.clear();
}

/// Cuts words anew after the pieces have changed; false, and nothing is done, when one would be unknown.
bool WordPieceLearner::recut(std::vector<Id> words) {
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  std::vector<std::pair<Id, std::vector<Id>>> changed;
  std::vector<Id> pieces;
  for (const Id word : words) {
    if (!cut(words_[word].text, pieces)) return false;
    if (pieces != words_[word].pieces) changed.emplace_back(word, pieces);
  }
  for (auto& [word, now] : changed) {
    count_word(word, -1);
    words_[word].pieces = std::move(now);
    count_word(word, +1);
  }
  queue_touched();
  return true;
}

/// Takes the most frequent candidate; false when there is none.
bool WordPieceLearner::learn_next() {
  while (!queue_.empty()) {
    const Entry top = queue_.top();
    queue_.pop();
    Candidate& candidate = candidates_[top.candidate];
    if (candidate.taken || top.count != candidate.count) continue;
    candidate.taken = true;
    std::string_view text = candidate.spelling;
    const text::ByteTrie& trie = take_prefix(text) ? continuations_ : starts_;
    // Only where this piece, the longest that the new one begins with, stands now is a word cut otherwise.
    const std::int32_t inner = trie.longest(text, 0).second;
    const Id id = add_piece(candidate.spelling);
    if (recut(pieces_[static_cast<Id>(inner)].words)) {
      pieces_[id].learned = true;
      ++live_;
      return true;
    }
    dropped_.push_back({pieces_[id].spelling, "breaks"});
    set_active(id, false);
  }
  return false;
}

/// Drops learned pieces that others have made rare; whether there were any.
bool WordPieceLearner::drop_rare() {
  bool any = false;
  for (Id id = 0; id < pieces_.size(); ++id) {
    Piece& piece = pieces_[id];
    if (!piece.learned || piece.character || piece.uses >= options_.min_frequency) continue;
    set_active(id, false);
    if (!recut(piece.words)) {
      set_active(id, true);
      continue;
    }
    piece.learned = false;
    dropped_.push_back({piece.spelling, "rare"});
    --live_;
    any = true;
  }
  return any;
}

void WordPieceLearner::learn() {
  do {
    while (live_ < options_.pieces && learn_next()) continue;
  } while (drop_rare());
}

std::vector<std::string> WordPieceLearner::pieces() const {
  std::vector<std::string> spellings;
  for (const Piece& piece : pieces_) {
    if (piece.learned) spellings.push_back(piece.spelling);
  }
  return spellings;
}

}  // namespace bitrain::vocab
