#include <bitrain/data/document_sources.h>

#include <algorithm>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/data/sentence_windows.h>

namespace bitrain::data {
namespace {

std::vector<std::int64_t> sentences_of(const Source& documents) {
  std::vector<std::int64_t> counts;
  counts.reserve(static_cast<std::size_t>(documents.size()));
  for (std::int64_t i = 0; i < documents.size(); ++i) {
    const Example document = documents.at(i);
    if (!document.pair_text.empty() || !document.messages.empty())
      throw DataError(row_name(document),
                      " is a pair or a conversation; sentences and their contexts come from plain documents");
    counts.push_back(static_cast<std::int64_t>(split_sentences(document.text).size()));
  }
  return counts;
}

class WindowSource : public Source {
 public:
  WindowSource(SourcePtr documents, std::int64_t window, std::uint64_t seed)
      : documents_(std::move(documents)),
        // Two languages of one document draw different contexts.
        windows_(sentences_of(*documents_), window, stream_key(seed, "windows/" + documents_->name())),
        rounds_(2 * std::min<std::int64_t>(window, 16)) {}

  const std::string& name() const override { return documents_->name(); }
  std::vector<std::string> languages() const override { return documents_->languages(); }
  std::int64_t size() const override { return windows_.size() * rounds_; }

  Example at(std::int64_t index) const override {
    const WindowPair pair = windows_.at(index);
    Example example = documents_->at(pair.centre.document);
    std::vector<std::string> sentences = split_sentences(example.text);
    const auto take = [&](const SentencePlace& place) {
      return std::move(sentences[static_cast<std::size_t>(place.sentence)]);
    };
    example.text = take(pair.centre);
    example.pair_text = take(pair.context);
    example.pair_language = example.language;
    return example;
  }

 private:
  SourcePtr documents_;
  SentenceWindows windows_;
  std::int64_t rounds_;
};

class NeighbourSource : public Source {
 public:
  NeighbourSource(SourcePtr pairs, std::int64_t neighbourhood, std::uint64_t seed)
      : pairs_(std::move(pairs)), neighbourhood_(neighbourhood), key_(stream_key(seed, "neighbours")) {
    if (neighbourhood < 1)
      throw ConfigError("hard negatives: the neighbourhood must be at least 1, not ", neighbourhood);
    if (pairs_->size() < 2)
      throw DataError("source '", pairs_->name(), "' has one pair of documents: it has no neighbour");
  }

  const std::string& name() const override { return pairs_->name(); }
  std::vector<std::string> languages() const override { return pairs_->languages(); }
  std::int64_t size() const override { return pairs_->size(); }

  Example at(std::int64_t index) const override {
    Example example = pairs_->at(index);
    RandomStream random(key_, static_cast<std::uint64_t>(index));
    example.negatives.push_back(pairs_->at(neighbour(index, random)).pair_text);
    example.text_negatives.push_back(pairs_->at(neighbour(index, random)).text);
    return example;
  }

 private:
  [[nodiscard]] std::int64_t neighbour(std::int64_t index, RandomStream& random) const {
    const std::int64_t first = std::max<std::int64_t>(0, index - neighbourhood_);
    const std::int64_t last = std::min(size() - 1, index + neighbourhood_);
    const auto drawn =
        first + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(last - first)));
    return drawn < index ? drawn : drawn + 1;
  }

  SourcePtr pairs_;
  std::int64_t neighbourhood_;
  std::uint64_t key_;
};

}  // namespace

SourcePtr window_source(SourcePtr documents, std::int64_t window, std::uint64_t seed) {
  return std::make_shared<WindowSource>(std::move(documents), window, seed);
}

SourcePtr neighbour_source(SourcePtr pairs, std::int64_t neighbourhood, std::uint64_t seed) {
  return std::make_shared<NeighbourSource>(std::move(pairs), neighbourhood, seed);
}

}  // namespace bitrain::data
