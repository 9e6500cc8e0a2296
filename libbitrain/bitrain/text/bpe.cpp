#include <bitrain/text/bpe.h>

#include <algorithm>
#include <queue>

namespace bitrain::text {
namespace {

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
/// Up to here the lowest rank is found by looking at all: quicker than a queue.
constexpr std::size_t kShort = 40;

}  // namespace

void BpeMerger::add(std::uint32_t left, std::uint32_t right, std::uint32_t rank, std::uint32_t result) {
  merges_.at_or_insert(PairTable<Merge>::pair(left, right)) = {rank, result};
}

void BpeMerger::merge(std::vector<Symbol>& word) const {
  if (word.size() < 2) return;
  if (word.size() <= kShort)
    merge_short(word);
  else
    merge_long(word);
}

void BpeMerger::merge_short(std::vector<Symbol>& word) const {
  std::size_t size = word.size();
  Merge next[kShort];  // next[i]: the merge of symbols i and i + 1.
  const auto look_up = [&](std::size_t i) {
    const Merge* merge = i + 1 < size ? find(word[i].id, word[i + 1].id) : nullptr;
    next[i] = merge != nullptr ? *merge : Merge{};
  };
  for (std::size_t i = 0; i < size; ++i) look_up(i);
  while (true) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < size; ++i) {
      if (next[i].rank < next[best].rank) best = i;
    }
    if (size < 2 || next[best].rank == kNone) break;
    word[best] = {next[best].result, word[best].length + word[best + 1].length};
    --size;
    for (std::size_t i = best + 1; i < size; ++i) {
      word[i] = word[i + 1];
      next[i] = next[i + 1];
    }
    look_up(best);
    if (best > 0) look_up(best - 1);
  }
  word.resize(size);
}

void BpeMerger::merge_long(std::vector<Symbol>& word) const {
  struct Node {
    std::uint32_t previous, next;
  };
  struct Candidate {
    std::uint32_t rank, at;     // `at` is the left symbol.
    std::uint32_t left, right;  // Its ids when found: a candidate whose symbols have changed is stale.
    std::uint32_t result;
    bool operator<(const Candidate& other) const {  // A priority queue gives the greatest.
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  const auto size = static_cast<std::uint32_t>(word.size());
  std::vector<Node> nodes(size);
  std::vector<Candidate> heap;
  heap.reserve(size);
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(heap));
  const auto look_up = [&](std::uint32_t at) {
    const std::uint32_t right = nodes[at].next;
    if (right == kNone) return;
    if (const Merge* merge = find(word[at].id, word[right].id))
      queue.push({merge->rank, at, word[at].id, word[right].id, merge->result});
  };
  for (std::uint32_t i = 0; i < size; ++i) nodes[i] = {i == 0 ? kNone : i - 1, i + 1 == size ? kNone : i + 1};
  for (std::uint32_t i = 0; i < size; ++i) look_up(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const std::uint32_t right = nodes[best.at].next;
    if (word[best.at].length == 0 || right == kNone || word[best.at].id != best.left ||
        word[right].id != best.right)
      continue;
    word[best.at] = {best.result, word[best.at].length + word[right].length};
    word[right].length = 0;  // Gone.
    nodes[best.at].next = nodes[right].next;
    if (nodes[right].next != kNone) nodes[nodes[right].next].previous = best.at;
    look_up(best.at);
    if (nodes[best.at].previous != kNone) look_up(nodes[best.at].previous);
  }
  word.erase(
      std::remove_if(word.begin(), word.end(), [](const Symbol& symbol) { return symbol.length == 0; }),
      word.end());
}

}  // namespace bitrain::text
