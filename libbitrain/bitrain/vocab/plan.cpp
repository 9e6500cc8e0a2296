#include <bitrain/vocab/plan.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/text/utf8.h>
#include <bitrain/vocab/piece_learner.h>

namespace bitrain::vocab {
namespace {

using text::PieceType;
using text::SpmModel;
using text::TokenId;
using SpmTokenizer = std::shared_ptr<const text::SentencePieceTokenizer>;

SpmTokenizer sentencepiece_of(const std::shared_ptr<const text::Tokenizer>& tokenizer) {
  if (tokenizer == nullptr) throw StateError("there is no tokenizer to extend");
  auto found = std::dynamic_pointer_cast<const text::SentencePieceTokenizer>(tokenizer);
  if (found != nullptr) return found;
  const auto* other = dynamic_cast<const text::HfTokenizer*>(tokenizer.get());
  const std::string difference = other == nullptr ? "" : other->model_difference();
  if (difference.empty())
    throw UnsupportedError(
        "only SentencePiece tokenizers (tokenizer.model) can be extended; this one is of another kind");
  throw UnsupportedError(
      "only SentencePiece tokenizers (tokenizer.model) can be extended; the tokenizer.model of this folder "
      "does "
      "not count, since its tokenizer.json, or the class that tokenizer_config.json names, gives other ids: ",
      difference,
      ". If the model was trained with the ids of tokenizer.model, move tokenizer.json away and take "
      "tokenizer_class out of tokenizer_config.json");
}

/// The new pieces that the extended tokenizer cuts their own text into something else than themselves.
std::unordered_set<std::string> unreachable_pieces(const SpmModel& extended, std::size_t first) {
  const auto tokenizer = text::make_sentencepiece_tokenizer(extended);
  std::unordered_set<std::string> found;
  for (std::size_t id = first; id < extended.pieces.size(); ++id) {
    const std::string& piece = extended.pieces[id].text;
    if (tokenizer->encode_normalized(piece) != std::vector<TokenId>{static_cast<TokenId>(id)})
      found.insert(piece);
  }
  return found;
}

/// How often the extended tokenizer gives each of its pieces.
std::vector<std::int64_t> count_uses(const SpmModel& extended, const std::vector<WordCount>& words) {
  const auto tokenizer = text::make_sentencepiece_tokenizer(extended);
  std::vector<std::int64_t> uses(extended.pieces.size(), 0);
  for (const WordCount& word : words) {
    for (const TokenId id : tokenizer->encode_normalized(word.word))
      uses[static_cast<std::size_t>(id)] += word.count;
  }
  return uses;
}

/// A learned piece and, for a unigram model, its aligned score.
struct Learned {
  std::string text;
  float score = 0;
};

/// Characters of a piece that are no pieces come before it: neither Hugging Face's BPE nor a merge from the
/// left can reach it without them.
std::vector<Learned> learn_separately(const SpmModel& base, const std::vector<WordCount>& words,
                                      const ExtensionOptions& options, std::vector<DroppedPiece>& dropped) {
  text::TrainOptions train;
  train.model_type = base.type == text::SpmType::kUnigram ? "unigram" : "bpe";
  // Room for pieces that exist already, are not reached, or are rare.
  train.vocab_size = 2 * options.pieces + 1000;
  train.exact_vocab_size = false;
  train.character_coverage = options.character_coverage;
  train.split_digits = options.split_digits;
  train.max_piece_length = options.max_piece_length;
  train.add_dummy_prefix = false;  // The words bring theirs.
  // A word as often as it occurs would be the text again; SentencePiece counts lines of words as well.
  std::size_t next = 0;
  std::int64_t repeated = 0;
  const text::NextLine lines = [&](std::string& line) {
    line.clear();
    while (next < words.size() && line.size() < 4096) {
      std::string_view rest = words[next].word;
      while (rest.substr(0, text::kSpaceMark.size()) == text::kSpaceMark) {
        rest.remove_prefix(text::kSpaceMark.size());
        line += ' ';
      }
      line += rest;
      if (++repeated == words[next].count) {
        repeated = 0;
        ++next;
      }
    }
    return !line.empty();
  };
  const SpmModel learned = text::train_sentencepiece(lines, train);

  std::unordered_map<std::string_view, float> known;
  for (const text::SpmPiece& piece : base.pieces) known.emplace(piece.text, piece.score);
  double shift = 0;
  std::int64_t shared = 0;
  std::vector<Learned> fresh;
  for (const text::SpmPiece& piece : learned.pieces) {
    if (piece.type != PieceType::kNormal) continue;
    const auto old = known.find(piece.text);
    if (old == known.end()) {
      fresh.push_back({piece.text, piece.score});
      continue;
    }
    dropped.push_back({piece.text, "exists"});
    shift += old->second - piece.score;
    ++shared;
  }
  if (shared > 0) shift /= static_cast<double>(shared);
  for (Learned& piece : fresh) piece.score += static_cast<float>(shift);
  // The trainer puts single characters last in BPE.
  std::stable_partition(fresh.begin(), fresh.end(),
                        [](const Learned& piece) { return text::utf8_length(piece.text) == 1; });
  return fresh;
}

SpmModel append_learned(const SpmModel& base, const std::vector<Learned>& pieces) {
  if (base.type == text::SpmType::kUnigram) {
    SpmModel extended = base;
    std::vector<text::SpmPiece> more;
    for (const Learned& piece : pieces) more.push_back({piece.text, piece.score, PieceType::kNormal, {}});
    extended.append(more);
    return extended;
  }
  std::vector<std::string> texts;
  for (const Learned& piece : pieces) texts.push_back(piece.text);
  return append_below(base, texts);
}

/// `base` with as many of `candidates`, in order, as are wanted and reached.
SpmModel append_reachable(const SpmModel& base, std::vector<Learned> candidates, std::size_t wanted,
                          std::vector<DroppedPiece>& dropped) {
  while (true) {
    std::vector<Learned> taken(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                                            wanted, candidates.size())));
    SpmModel extended = append_learned(base, taken);
    const std::unordered_set<std::string> unreachable = unreachable_pieces(extended, base.pieces.size());
    if (unreachable.empty()) {
      for (std::size_t i = taken.size(); i < candidates.size(); ++i)
        dropped.push_back({candidates[i].text, "surplus"});
      return extended;
    }
    // Others take their places; without them some that were reached may no longer be.
    std::vector<Learned> kept;
    for (Learned& piece : candidates) {
      if (unreachable.count(piece.text) != 0)
        dropped.push_back({piece.text, "unreachable"});
      else
        kept.push_back(std::move(piece));
    }
    candidates = std::move(kept);
  }
}

/// Pieces that longer new pieces are directly joined from.
std::unordered_set<std::string> building_blocks(const SpmModel& extended, std::size_t first) {
  std::unordered_set<std::string_view> all;
  for (const text::SpmPiece& piece : extended.pieces) all.insert(piece.text);
  std::unordered_set<std::string> blocks;
  for (std::size_t id = first; id < extended.pieces.size(); ++id) {
    const std::string_view piece = extended.pieces[id].text;
    for (std::size_t cut = 1; cut < piece.size(); ++cut) {
      if (all.count(piece.substr(0, cut)) == 0 || all.count(piece.substr(cut)) == 0) continue;
      blocks.emplace(piece.substr(0, cut));
      blocks.emplace(piece.substr(cut));
    }
  }
  return blocks;
}

/// Without new pieces that the words hardly use, unless a longer BPE piece is joined from them.
SpmModel drop_rare(const SpmModel& base, const SpmModel& extended, const std::vector<WordCount>& words,
                   std::int64_t min_frequency, std::vector<DroppedPiece>& dropped) {
  const std::size_t first = base.pieces.size();
  const std::vector<std::int64_t> uses = count_uses(extended, words);
  std::unordered_set<std::string> blocks;
  if (base.type == text::SpmType::kBpe) blocks = building_blocks(extended, first);
  SpmModel result = base;
  std::vector<text::SpmPiece> kept;
  for (std::size_t id = first; id < extended.pieces.size(); ++id) {
    const text::SpmPiece& piece = extended.pieces[id];
    if (uses[id] >= min_frequency || blocks.count(piece.text) != 0)
      kept.push_back(piece);
    else
      dropped.push_back({piece.text, "rare"});
  }
  result.append(kept);
  return result;
}

std::vector<NewPiece> new_pieces(const text::SentencePieceTokenizer& base, const SpmModel& extended) {
  std::vector<NewPiece> pieces;
  for (std::size_t id = base.model().pieces.size(); id < extended.pieces.size(); ++id) {
    const std::string& piece = extended.pieces[id].text;
    pieces.push_back({piece, static_cast<TokenId>(id), base.encode_normalized(piece), 0});
  }
  return pieces;
}

}  // namespace

std::map<std::string, std::int64_t> ExtensionPlan::dropped_counts() const {
  std::map<std::string, std::int64_t> counts;
  for (const DroppedPiece& piece : dropped) ++counts[piece.reason];
  return counts;
}

ExtensionPlan plan_extension(const std::shared_ptr<const text::Tokenizer>& base, const text::NextLine& lines,
                             const ExtensionOptions& options) {
  ExtensionPlan plan;
  plan.base = sentencepiece_of(base);
  const SpmModel& old = plan.base->model();
  const std::vector<WordCount> words = count_words(*plan.base, lines);
  std::vector<Learned> learned;
  if (old.type == text::SpmType::kBpe && options.method == "continue") {
    for (std::string& piece : continue_merging(old, words, options)) learned.push_back({std::move(piece), 0});
  } else {
    learned = learn_separately(old, words, options, plan.dropped);
  }
  SpmModel extended =
      append_reachable(old, std::move(learned), static_cast<std::size_t>(options.pieces), plan.dropped);
  extended = drop_rare(old, extended, words, options.min_frequency, plan.dropped);
  if (extended.pieces.size() == old.pieces.size())
    throw DataError("the text gives no piece that the tokenizer lacks and that occurs ",
                    options.min_frequency, " times: is it in the new language, and long enough?");
  plan.pieces = new_pieces(*plan.base, extended);
  const std::vector<std::int64_t> uses = count_uses(extended, words);
  for (NewPiece& piece : plan.pieces) piece.uses = uses[static_cast<std::size_t>(piece.id)];
  plan.tokenizer = plan.base->with_model(std::move(extended));
  return plan;
}

ExtensionPlan plan_between(const std::shared_ptr<const text::Tokenizer>& base,
                           const std::shared_ptr<const text::Tokenizer>& extended) {
  ExtensionPlan plan;
  plan.base = sentencepiece_of(base);
  plan.tokenizer = sentencepiece_of(extended);
  const std::vector<text::SpmPiece>& old = plan.base->model().pieces;
  const std::vector<text::SpmPiece>& pieces = plan.tokenizer->model().pieces;
  for (std::size_t id = 0; id < old.size(); ++id) {
    if (id >= pieces.size())
      throw StateError("the extended tokenizer has ", pieces.size(), " pieces, fewer than the base's ",
                       old.size());
    if (old[id].text != pieces[id].text || old[id].type != pieces[id].type)
      throw StateError("the extended tokenizer is not an extension of the base: id ", id, " is '",
                       old[id].text, "' in the base and '", pieces[id].text, "' in the other");
  }
  plan.pieces = new_pieces(*plan.base, plan.tokenizer->model());
  return plan;
}

SegmentationChange segmentation_change(const text::Tokenizer& before, const text::Tokenizer& after,
                                       const text::NextLine& lines) {
  SegmentationChange change;
  for (std::string line; lines(line);) {
    const text::Encoding a = before.encode_with_offsets(line);
    ++change.lines;
    change.tokens += static_cast<std::int64_t>(a.ids.size());
    const text::Encoding b = after.encode_with_offsets(line);
    if (a.ids == b.ids) continue;
    ++change.changed_lines;
    std::size_t at = 0;
    for (std::size_t i = 0; i < a.ids.size(); ++i) {
      while (at < b.ids.size() && b.offsets[at].end < a.offsets[i].end) ++at;
      const bool same = at < b.ids.size() && b.ids[at] == a.ids[i] &&
                        b.offsets[at].begin == a.offsets[i].begin && b.offsets[at].end == a.offsets[i].end;
      change.changed_tokens += !same;
    }
  }
  return change;
}

}  // namespace bitrain::vocab
