#include <bitrain/data/sample_stream.h>

#include <algorithm>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>

namespace bitrain::data {
namespace {

constexpr std::int64_t kChunkSamples = 32;

}  // namespace

SampleStream::SampleStream(SourcePtr source, Encode encode, std::vector<std::string> languages,
                           std::uint64_t seed, bool shuffle, WorkerPool* pool, std::int64_t ahead)
    : source_(std::move(source)),
      encode_(std::move(encode)),
      languages_(std::move(languages)),
      seed_(stream_key(seed, "shuffle/" + source_->name())),
      shuffle_(shuffle),
      pool_(pool),
      ahead_(ahead) {}

TokenSequence SampleStream::encode_document(std::int64_t index) const {
  const Example example = source_->at(index);
  TokenSequence sequence;
  if (!example.empty()) sequence = encode_(example);
  if (sequence.empty()) {
    sequence.why_empty = row_name(example) + " " +
                         (sequence.why_empty.empty() ? "gives no token to learn from" : sequence.why_empty);
    if (example.empty()) return sequence;
  }
  if (sequence.ids.size() != sequence.labels.size()) {
    throw StateError("encoding ", row_name(example), " gave ", sequence.ids.size(), " ids and ",
                     sequence.labels.size(), " labels");
  }
  auto language = std::find(languages_.begin(), languages_.end(), example.language);
  if (language == languages_.end()) {
    throw DataError(row_name(example), " is of language '", example.language,
                    "', which the source does not list");
  }
  sequence.language = static_cast<std::int32_t>(language - languages_.begin());
  return sequence;
}

std::shared_ptr<const TokenSequence> SampleStream::encode(std::int64_t k) const {
  const std::int64_t size = source_->size();
  std::int64_t index = k % size;
  if (shuffle_) {
    const std::uint64_t key = RandomStream(seed_, static_cast<std::uint64_t>(k / size)).next_u64();
    index = static_cast<std::int64_t>(
        permute_index(key, static_cast<std::uint64_t>(size), static_cast<std::uint64_t>(index)));
  }
  return std::make_shared<const TokenSequence>(encode_document(index));
}

std::shared_ptr<const TokenSequence> SampleStream::get(std::int64_t k) {
  if (pool_ == nullptr) return encode(k);
  const std::int64_t chunk = k / kChunkSamples;
  const auto last = current_chunk_ + static_cast<std::int64_t>(next_.size());
  if (current_chunk_ < 0 || chunk < current_chunk_ || chunk > last) {  // the start, or a jump
    next_.clear();
    current_chunk_ = chunk - 1;
  }
  while (static_cast<std::int64_t>(next_.size()) < ahead_) {
    submit_chunk(current_chunk_ + 1 + static_cast<std::int64_t>(next_.size()));
  }
  while (current_chunk_ < chunk) {
    std::future<Chunk> ready = std::move(next_.front());
    next_.pop_front();
    submit_chunk(current_chunk_ + 2 + static_cast<std::int64_t>(next_.size()));
    current_ = ready.get();
    ++current_chunk_;
  }
  const Encoded& encoded = current_[static_cast<std::size_t>(k % kChunkSamples)];
  if (encoded.failure) std::rethrow_exception(encoded.failure);
  return encoded.sequence;
}

void SampleStream::submit_chunk(std::int64_t chunk) {
  auto task = std::make_shared<std::packaged_task<Chunk()>>([this, chunk] {
    Chunk result;
    result.reserve(kChunkSamples);
    for (std::int64_t k = chunk * kChunkSamples; k < (chunk + 1) * kChunkSamples; ++k) {
      try {
        result.push_back({encode(k), nullptr});
      } catch (...) {
        result.push_back({nullptr, std::current_exception()});
      }
    }
    return result;
  });
  next_.push_back(task->get_future());
  pool_->submit([task] { (*task)(); });
}

double SampleStream::mean_tokens() const {
  const std::int64_t size = source_->size();
  const std::int64_t count = std::min<std::int64_t>(size, 128);
  double tokens = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    tokens += static_cast<double>(encode_document(i * size / count).size());
  }
  return tokens / static_cast<double>(count);
}

}  // namespace bitrain::data
