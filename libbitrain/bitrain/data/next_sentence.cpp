#include <bitrain/data/next_sentence.h>

#include <algorithm>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/data/sentence_windows.h>

namespace bitrain::data {
namespace {

/// The document and place of item `index`, where documents end at `ends`.
SentencePlace place_of(const std::vector<std::int64_t>& ends, std::int64_t index) {
  const auto document = std::upper_bound(ends.begin(), ends.end(), index) - ends.begin();
  return {document, index - (document == 0 ? 0 : ends[static_cast<std::size_t>(document) - 1])};
}

class NextSentenceSource : public Source {
 public:
  NextSentenceSource(SourcePtr documents, std::uint64_t seed)
      : documents_(std::move(documents)), pairs_(counts(*documents_), seed) {}

  const std::string& name() const override { return documents_->name(); }
  std::vector<std::string> languages() const override { return documents_->languages(); }
  std::int64_t size() const override { return pairs_.size(); }

  Example at(std::int64_t index) const override {
    if (index < 0 || index >= size())
      throw StateError("source '", name(), "' has ", size(), " pairs; asked for number ", index);
    const SentencePair pair = pairs_.at(index);
    Example example;
    const Example first = documents_->at(pair.first.document);
    example.text = sentence(first, pair.first);
    example.pair_text = sentence(pair.follows ? first : documents_->at(pair.second.document), pair.second);
    example.language = example.pair_language = first.language;
    example.source = first.source;
    example.id = first.id;
    example.follows = pair.follows;
    return example;
  }

 private:
  static std::string sentence(const Example& document, const SentencePlace& place) {
    return split_sentences(document.text).at(static_cast<std::size_t>(place.sentence));
  }
  static std::vector<std::int64_t> counts(const Source& documents) {
    std::vector<std::int64_t> sentences;
    for (std::int64_t i = 0; i < documents.size(); ++i)
      sentences.push_back(static_cast<std::int64_t>(split_sentences(documents.at(i).text).size()));
    return sentences;
  }

  SourcePtr documents_;
  NextSentencePairs pairs_;
};

}  // namespace

NextSentencePairs::NextSentencePairs(const std::vector<std::int64_t>& sentences, std::uint64_t seed)
    : order_key_(stream_key(seed, "next_sentence/order")), pair_key_(stream_key(seed, "next_sentence/pair")) {
  std::int64_t all = 0;
  std::int64_t firsts = 0;
  std::int64_t filled = 0;
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    if (sentences[i] < 0) throw DataError("document ", i, " has ", sentences[i], " sentences");
    all += sentences[i];
    firsts += std::max<std::int64_t>(sentences[i] - 1, 0);
    filled += sentences[i] > 0;
    ends_.push_back(all);
    first_ends_.push_back(firsts);
  }
  if (firsts == 0) throw DataError("next sentences: no document has two sentences");
  if (filled < 2) throw DataError("next sentences: there is no second document to draw sentences from");
}

SentencePair NextSentencePairs::at(std::int64_t sample) const {
  const std::int64_t epoch = sample / size();
  const std::uint64_t key = RandomStream(order_key_, static_cast<std::uint64_t>(epoch)).next_u64();
  const auto index =
      permute_index(key, static_cast<std::uint64_t>(size()), static_cast<std::uint64_t>(sample % size()));
  SentencePair pair;
  pair.first = place_of(first_ends_, static_cast<std::int64_t>(index));
  RandomStream random(pair_key_, static_cast<std::uint64_t>(sample));
  pair.follows = random.below(2) == 0;
  if (pair.follows) {
    pair.second = {pair.first.document, pair.first.sentence + 1};
    return pair;
  }
  const auto document = static_cast<std::size_t>(pair.first.document);
  const std::int64_t begin = document == 0 ? 0 : ends_[document - 1];
  const std::int64_t own = ends_[document] - begin;
  auto other = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(ends_.back() - own)));
  if (other >= begin) other += own;
  pair.second = place_of(ends_, other);
  return pair;
}

SourcePtr next_sentence_source(SourcePtr documents, std::uint64_t seed) {
  const std::string name = documents->name();
  try {
    return std::make_shared<NextSentenceSource>(std::move(documents), seed);
  } catch (Error& error) {
    error.add_context("source '" + name + "'");
    throw;
  }
}

}  // namespace bitrain::data
