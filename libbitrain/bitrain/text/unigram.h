#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <bitrain/text/byte_trie.h>

namespace bitrain::text {

/// The most probable segmentation under a unigram model of pieces (Kudo 2018), by Viterbi.
class UnigramSegmenter {
 public:
  /// A segment of the text; `id` is -1 for one character without a piece.
  struct Segment {
    std::int32_t id = -1;
    std::uint32_t length = 0;
  };

  /// A piece that may be used, with its log probability. `always`: chosen wherever it occurs.
  void add(std::string_view piece, std::int32_t id, double score, bool always = false);

  /// Segments of `text` from left to right. A character without a piece costs the lowest score minus 10.
  void segment(std::string_view text, std::vector<Segment>& segments) const;

 private:
  struct Piece {
    double score = 0;
    bool always = false;
  };
  ByteTrie trie_;
  std::vector<Piece> pieces_;  ///< By id.
  double lowest_ = 0;
  double highest_ = 0;
  bool any_ = false;
};

}  // namespace bitrain::text
