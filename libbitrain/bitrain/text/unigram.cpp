#include <bitrain/text/unigram.h>

#include <algorithm>

#include <bitrain/text/utf8.h>

namespace bitrain::text {

void UnigramSegmenter::add(std::string_view piece, std::int32_t id, double score, bool always) {
  trie_.add(piece, id);
  if (pieces_.size() <= static_cast<std::size_t>(id)) pieces_.resize(static_cast<std::size_t>(id) + 1);
  pieces_[static_cast<std::size_t>(id)] = {score, always};
  if (always) return;
  lowest_ = any_ ? std::min(lowest_, score) : score;
  highest_ = any_ ? std::max(highest_, score) : score;
  any_ = true;
}

void UnigramSegmenter::segment(std::string_view text, std::vector<Segment>& segments) const {
  constexpr double kUnknownPenalty = 10.0;
  struct Node {
    double score = 0;
    std::uint32_t length = 0;  // Of the best segment that ends here; 0: none does.
    std::int32_t id = -1;
  };
  std::vector<Node> best(text.size() + 1);
  const auto offer = [&](std::size_t begin, std::size_t length, std::int32_t id, double score) {
    Node& node = best[begin + length];
    const double candidate = best[begin].score + score;
    if (node.length == 0 || candidate > node.score)
      node = {candidate, static_cast<std::uint32_t>(length), id};
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t character = utf8_at(text, at).length;
    bool covered = false;
    trie_.prefixes(text, at, [&](std::size_t length, std::int32_t id) {
      const Piece& piece = pieces_[static_cast<std::size_t>(id)];
      const double score = piece.always ? static_cast<double>(length) * highest_ - 0.1 : piece.score;
      offer(at, length, id, score);
      covered = covered || length == character;
    });
    if (!covered) offer(at, character, -1, lowest_ - kUnknownPenalty);
    at += character;
  }
  const std::size_t first = segments.size();
  for (std::size_t end = text.size(); end > 0; end -= best[end].length)
    segments.push_back({best[end].id, best[end].length});
  std::reverse(segments.begin() + static_cast<std::ptrdiff_t>(first), segments.end());
}

}  // namespace bitrain::text
