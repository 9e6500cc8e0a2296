#include <bitrain/vocab/wordpiece_plan.h>

#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/utf8.h>
#include <bitrain/vocab/piece_learner.h>
#include <bitrain/vocab/wordpiece_learner.h>

namespace bitrain::vocab {
namespace {

using text::TokenId;
using WordPieceTokenizer = std::shared_ptr<const text::HfTokenizer>;

WordPieceTokenizer wordpiece_of(const std::shared_ptr<const text::Tokenizer>& tokenizer) {
  if (tokenizer == nullptr) throw StateError("there is no tokenizer to extend");
  auto found = std::dynamic_pointer_cast<const text::HfTokenizer>(tokenizer);
  if (found == nullptr || found->wordpiece() == nullptr)
    throw UnsupportedError("only a WordPiece tokenizer can be extended so; this one is of another kind");
  return found;
}

/// Combining marks of a text, the vowel signs of many scripts among them.
std::int64_t marks_in(std::string_view text) {
  std::int64_t marks = 0;
  for (std::size_t at = 0; at < text.size();) {
    const text::Utf8Char c = text::utf8_at(text, at);
    marks += text::class_of(c.code) == text::CharacterClass::kMark;
    at += c.length;
  }
  return marks;
}

/// An uncased BERT takes vowel signs off Indic, Thai or vocalised Semitic text; nothing else would say so.
void warn_of_lost_marks(std::int64_t marks, std::int64_t kept, std::int64_t bytes) {
  const std::int64_t lost = marks - kept;
  if (lost * 5 < marks || lost * 100 < bytes) return;  // Most stay, or hardly any are there.
  log_warn(
      "the tokenizer's normaliser removes ", lost, " of ", marks, " combining marks of the text; in many ",
      "scripts they are vowel signs, and the new pieces lack them. A tokenizer with strip_accents: false, "
      "as of a cased model, keeps them");
}

/// The words of the lines, in order of the text.
std::vector<WordCount> words_of(const text::HfTokenizer& tokenizer, const text::NextLine& lines) {
  std::vector<WordCount> words;
  std::unordered_map<std::string, std::size_t> places;
  std::int64_t number = 0;
  std::int64_t marks = 0;
  std::int64_t kept = 0;
  std::int64_t bytes = 0;
  for (std::string line; lines(line);) {
    ++number;
    if (const std::size_t at = find_invalid_utf8(line); at != std::string_view::npos)
      throw DataError("line ", number, ": byte ", at + 1, " is not UTF-8");
    marks += marks_in(line);
    bytes += static_cast<std::int64_t>(line.size());
    for (std::string& word : tokenizer.words(line)) {
      kept += marks_in(word);
      const auto [place, is_new] = places.emplace(std::move(word), words.size());
      if (is_new) words.push_back({place->first, 0});
      ++words[place->second].count;
    }
  }
  if (words.empty()) throw DataError("there is no text to learn pieces from");
  warn_of_lost_marks(marks, kept, bytes);
  return words;
}

/// A word above the model's limit is unknown whatever there is to learn: nothing is learned from it.
void say_long_words(const text::WordPieceModel& model, const std::vector<WordCount>& words) {
  std::int64_t all = 0;
  std::int64_t longer = 0;
  for (const WordCount& word : words) {
    all += word.count;
    if (text::utf8_length(word.word) > model.max_input_characters()) longer += word.count;
  }
  if (longer > 0)
    log_warn("of ", with_thousands(all), " words ", with_thousands(longer), " have more than ",
             model.max_input_characters(),
             " characters (max_input_chars_per_word): the tokenizer takes them for "
             "unknown, and nothing is learned from them");
}

std::vector<NewPiece> new_pieces(const text::HfTokenizer& base, const text::HfTokenizer& extended) {
  std::vector<NewPiece> pieces;
  for (auto id = static_cast<TokenId>(base.vocab_size()); id < extended.vocab_size(); ++id) {
    const std::string spelling = extended.id_to_piece(id);
    pieces.push_back({spelling, id, base.wordpiece()->encode_piece(spelling), 0});
  }
  return pieces;
}

}  // namespace

WordPiecePlan plan_wordpiece_extension(const std::shared_ptr<const text::Tokenizer>& base,
                                       const text::NextLine& lines, const ExtensionOptions& options) {
  if (options.method != "continue")
    throw UnsupportedError("a WordPiece tokenizer is extended by the method 'continue', not '",
                           options.method, "'");
  WordPiecePlan plan;
  plan.base = wordpiece_of(base);
  const std::vector<WordCount> words = words_of(*plan.base, lines);
  say_long_words(*plan.base->wordpiece(), words);
  WordPieceLearner learner(*plan.base->wordpiece(), words, options);
  learner.learn();
  plan.dropped = learner.dropped();
  std::vector<std::string> spellings;
  for (std::string& spelling : learner.pieces()) {
    if (plan.base->piece_to_id(spelling))
      plan.dropped.push_back({std::move(spelling), "exists"});
    else
      spellings.push_back(std::move(spelling));
  }
  if (spellings.empty())
    throw DataError("the text gives no piece that the tokenizer lacks and that occurs ",
                    options.min_frequency, " times: is it in the new language, and long enough?");
  plan.tokenizer = plan.base->with_pieces(spellings);
  plan.pieces = new_pieces(*plan.base, *plan.tokenizer);
  std::vector<text::WordModel::Token> tokens;
  for (const WordCount& word : words) {
    tokens.clear();
    plan.tokenizer->wordpiece()->encode(word.word, tokens);
    for (const auto& token : tokens) {
      const std::int64_t place = token.id - plan.old_vocab_size();
      if (place >= 0) plan.pieces[static_cast<std::size_t>(place)].uses += word.count;
    }
  }
  return plan;
}

WordPiecePlan wordpiece_plan_between(const std::shared_ptr<const text::Tokenizer>& base,
                                     const std::shared_ptr<const text::Tokenizer>& extended) {
  WordPiecePlan plan;
  plan.base = wordpiece_of(base);
  plan.tokenizer = wordpiece_of(extended);
  if (plan.vocab_size() < plan.old_vocab_size())
    throw StateError("the extended tokenizer has ", plan.vocab_size(), " pieces, fewer than the base's ",
                     plan.old_vocab_size());
  for (TokenId id = 0; id < plan.old_vocab_size(); ++id) {
    const std::string old = plan.base->id_to_piece(id);
    const std::string now = plan.tokenizer->id_to_piece(id);
    if (old != now)
      throw StateError("the extended tokenizer is not an extension of the base: id ", id, " is '", old,
                       "' in the base and '", now, "' in the other");
  }
  plan.pieces = new_pieces(*plan.base, *plan.tokenizer);
  return plan;
}

}  // namespace bitrain::vocab
