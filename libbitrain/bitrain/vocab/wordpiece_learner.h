#pragma once

#include <cstdint>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <bitrain/text/byte_trie.h>
#include <bitrain/text/wordpiece.h>
#include <bitrain/vocab/piece_learner.h>
#include <bitrain/vocab/plan.h>

namespace bitrain::vocab {

/// Goes on with WordPiece training from where a model stops (see plan_wordpiece_extension). Words and pieces
/// are kept as the extended tokenizer cuts them at every moment.
class WordPieceLearner {
 public:
  WordPieceLearner(const text::WordPieceModel& base, const std::vector<WordCount>& words,
                   const ExtensionOptions& options);

  /// Learns at most options.pieces. To be called once.
  void learn();
  /// What was learned and is used, in order.
  [[nodiscard]] std::vector<std::string> pieces() const;
  [[nodiscard]] const std::vector<DroppedPiece>& dropped() const { return dropped_; }

 private:
  using Id = std::uint32_t;  ///< Of a piece in pieces_.
  struct Piece {
    std::string spelling;
    std::int64_t uses = 0;
    bool learned = false;
    bool character = false;  ///< Keeps its place, used or not.
    std::vector<Id> words;   ///< Where it occurs or did.
  };
  struct Word {
    std::string text;
    std::int64_t count = 0;
    std::vector<Id> pieces;
  };
  struct Candidate {
    std::string spelling;
    std::int64_t count = 0;
    bool taken = false;
  };
  struct Entry {
    std::int64_t count;
    Id candidate;
    bool operator<(const Entry& other) const {  // Among equals the one seen first.
      return count != other.count ? count < other.count : candidate > other.candidate;
    }
  };

  void add_missing_characters(const std::vector<WordCount>& words);
  Id add_piece(std::string spelling);
  void set_active(Id piece, bool active);
  [[nodiscard]] bool take_prefix(std::string_view& spelling) const;
  [[nodiscard]] bool cut(std::string_view word, std::vector<Id>& pieces) const;
  [[nodiscard]] Id candidate_of(Id left, Id right);
  void count_word(Id word, std::int64_t sign);
  void queue_touched();
  bool recut(std::vector<Id> words);
  bool learn_next();
  bool drop_rare();

  const ExtensionOptions& options_;
  std::string prefix_;
  std::int64_t max_characters_;
  text::ByteTrie starts_, continuations_;
  std::vector<Piece> pieces_;
  std::int64_t live_ = 0;  ///< Learned and not dropped.
  std::vector<Word> words_;
  std::vector<Candidate> candidates_;
  std::unordered_map<std::string, Id> candidate_ids_;
  text::PairTable<Id> pair_candidates_;
  std::vector<Id> touched_;  ///< Candidates whose counts have changed.
  std::priority_queue<Entry> queue_;
  std::vector<DroppedPiece> dropped_;
};

}  // namespace bitrain::vocab
