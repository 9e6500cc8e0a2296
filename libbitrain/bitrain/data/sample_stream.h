#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/data/packing.h>
#include <bitrain/data/source.h>
#include <bitrain/data/worker_pool.h>

namespace bitrain::data {

/// The endless series of a source's encoded samples: epoch after epoch, each in its own order. Sample k is a
/// pure function of (source, seed, k); a pool only encodes what is likely to be asked for next.
class SampleStream {
 public:
  /// `pool` may be null; it must be gone before the stream.
  SampleStream(SourcePtr source, Encode encode, std::vector<std::string> languages, std::uint64_t seed,
               bool shuffle, WorkerPool* pool, std::int64_t ahead);

  /// Sample `k`, encoded here and now. Any thread.
  [[nodiscard]] std::shared_ptr<const TokenSequence> encode(std::int64_t k) const;
  /// The same through what was encoded ahead. One thread at a time, best with rising k.
  [[nodiscard]] std::shared_ptr<const TokenSequence> get(std::int64_t k);
  /// Mean tokens of up to 128 documents spread evenly over the source.
  [[nodiscard]] double mean_tokens() const;
  [[nodiscard]] const Source& source() const { return *source_; }

 private:
  /// A failure waits until its sample is asked for, so that encoding ahead cannot bring it forward.
  struct Encoded {
    std::shared_ptr<const TokenSequence> sequence;
    std::exception_ptr failure;
  };
  using Chunk = std::vector<Encoded>;
  [[nodiscard]] TokenSequence encode_document(std::int64_t index) const;
  void submit_chunk(std::int64_t chunk);

  SourcePtr source_;
  Encode encode_;
  std::vector<std::string> languages_;
  std::uint64_t seed_;
  bool shuffle_;
  WorkerPool* pool_;
  std::int64_t ahead_;
  std::int64_t current_chunk_ = -1;
  Chunk current_;
  std::deque<std::future<Chunk>> next_;  ///< Chunks current_chunk_ + 1, ...
};

}  // namespace bitrain::data
