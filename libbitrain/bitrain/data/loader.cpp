#include <bitrain/data/loader.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <iterator>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/data/sample_stream.h>
#include <bitrain/data/worker_pool.h>
#include <bitrain/fields/check.h>

namespace bitrain::data {
namespace {

/// Everything that the next step depends on, beside what never changes.
struct Position {
  std::int64_t step = 0;
  MixtureState mixture;
  std::vector<Piece> carry;
};

/// A step and the position after it, or why it could not be made.
struct Prepared {
  std::vector<Batch> batches;
  Position after;
  std::exception_ptr failure;
};

std::string fingerprint(const Source& source) {
  return to_text(source.name(), " (", source.size(), " documents)");
}

void check_options(const LoaderOptions& options, const std::vector<SourcePtr>& sources) {
  check_fields(options, "loader.");
  if ((options.single_source_steps || options.distinct_texts) && options.packing != "whole")
    throw ConfigError("loader: single_source_steps and distinct_texts need packing: whole");
  std::set<std::string> names;
  for (const SourcePtr& source : sources) {
    if (!names.insert(source->name()).second) {
      throw ConfigError("two sources are called '", source->name(), "'; give each its own `name`");
    }
  }
}

}  // namespace

struct Loader::Impl {
  LoaderOptions options;
  Packing packing;
  RankOf rank;
  RankOf token_rank;
  std::vector<SourcePtr> sources;
  std::vector<std::string> languages;
  std::optional<Mixture> mixture;
  Position delivered;  ///< After the last step given.

  // The builder thread and what it has ready. `streams` belong to the builder while it runs.
  std::vector<std::unique_ptr<SampleStream>> streams;
  std::thread builder;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Prepared> ready;
  bool stop = false;
  std::unique_ptr<WorkerPool> pool;  ///< Last: its tasks use the streams.

  Impl(LoaderOptions given, std::vector<SourcePtr> given_sources, const Encode& encode, LoaderRun run)
      : options(std::move(given)),
        packing(packing_from(options.packing)),
        rank(run.rank),
        token_rank(run.tokens),
        sources(std::move(given_sources)),
        languages(languages_of(sources)) {
    check_options(options, sources);
    if (options.rows_per_step < rank.ranks)
      throw ConfigError("loader: a step of ", options.rows_per_step, " rows cannot be shared by ", rank.ranks,
                        " ranks; raise rows_per_step, or run fewer");
    if (!encode) throw StateError("a loader needs a function that encodes examples");
    const std::int64_t encoders = std::max<std::int64_t>(0, options.prefetch_threads - 1);
    if (encoders > 0) pool = std::make_unique<WorkerPool>(encoders);
    for (const SourcePtr& source : sources) {
      streams.push_back(std::make_unique<SampleStream>(source, encode, languages, run.seed, options.shuffle,
                                                       pool.get(), 2 * encoders));
    }
    make_mixture(run);
    delivered.mixture = mixture->start();
  }

  ~Impl() { stop_builder(); }

  /// What a source has its share together with: a language, or a pair of languages; empty: nothing.
  [[nodiscard]] std::string share_of(const Source& source) const {
    std::vector<std::string> codes = source.languages();
    if (options.mixture.over == "sources") return {};
    if (options.mixture.over == "languages") return codes.front();
    std::sort(codes.begin(), codes.end());
    return join(codes, "-");
  }

  void make_mixture(LoaderRun run) {
    const MixtureOptions& o = options.mixture;
    const bool by_size = o.stages.empty() && o.kind != "weights" && o.kind != "ratio";
    const bool needs_tokens = by_size && (o.unit == "tokens" || o.kind == "unimax");
    std::vector<MixtureSource> described;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      MixtureSource source{sources[i]->name(), share_of(*sources[i]), sources[i]->size()};
      if (needs_tokens) source.tokens = streams[i]->mean_tokens() * static_cast<double>(source.samples);
      described.push_back(std::move(source));
    }
    const MixtureRun length{run.total_steps, static_cast<double>(run.total_steps) *
                                                 static_cast<double>(options.rows_per_step) *
                                                 static_cast<double>(options.sequence_length)};
    mixture.emplace(o, std::move(described), length);
  }

  /// The next sample with tokens, of source `only` where it is one; or a piece without a sequence at the end
  /// of the data.
  Piece draw(Position& position, std::int64_t only) {
    std::vector<std::int64_t> dropped(sources.size(), 0);
    for (;;) {
      const std::int64_t chosen = only >= 0 ? only : mixture->next(position.mixture, position.step);
      if (chosen < 0) return {};
      const auto i = static_cast<std::size_t>(chosen);
      const std::int64_t sample = position.mixture.sources[i].samples;
      if (only >= 0 && mixture->limit(i) >= 0 && sample >= mixture->limit(i)) return {};
      auto sequence = streams[i]->get(sample);
      mixture->record(position.mixture, i, sequence->size(), position.step);
      if (!sequence->empty()) {
        const std::int64_t size = sequence->size();
        return {std::move(sequence), chosen, sample, 0, size};
      }
      if (++dropped[i] > sources[i]->size()) {
        throw DataError("source '", sources[i]->name(), "': none of its ", sources[i]->size(),
                        " documents has anything to learn from; for example ", sequence->why_empty);
      }
    }
  }

  /// The rows of a step, of source `only` where it is one.
  std::vector<Row> rows_of(Position& position, std::vector<Piece>& carry, std::int64_t only) {
    return pack_rows(
        packing, options.rows_per_step, options.sequence_length, [&] { return draw(position, only); }, carry,
        options.distinct_texts);
  }

  std::vector<Row> rows_of_one_source(Position& position) {
    const std::int64_t only = mixture->next(position.mixture, position.step);
    if (only < 0) return {};
    std::vector<Piece> own;
    std::vector<Piece> others;
    for (Piece& piece : position.carry) (piece.source == only ? own : others).push_back(std::move(piece));
    std::vector<Row> rows = rows_of(position, own, only);
    others.insert(others.end(), std::make_move_iterator(own.begin()), std::make_move_iterator(own.end()));
    position.carry = std::move(others);
    return rows;
  }

  Prepared build(const Position& from) {
    Prepared result;
    result.after = from;
    std::vector<Row> rows = options.single_source_steps ? rows_of_one_source(result.after)
                                                        : rows_of(result.after, result.after.carry, -1);
    if (packing == Packing::kWhole && static_cast<std::int64_t>(rows.size()) < rank.ranks && !rows.empty()) {
      // Losses that look across a step need rows on every rank.
      log_warn("the last ", rows.size(), " examples are left out: there are ", rank.ranks, " ranks");
      rows.clear();
    }
    const auto group = static_cast<std::size_t>(options.micro_batch_rows > 0 ? options.micro_batch_rows
                                                                             : options.rows_per_step);
    for (const Batch& batch : micro_batches(rows, group, options.keep_boundaries, rank))
      result.batches.push_back(token_share(batch, token_rank.rank, token_rank.ranks));
    if (!rows.empty()) ++result.after.step;
    return result;
  }

  void run_builder() {
    Position position = delivered;
    for (bool more = true; more;) {
      Prepared prepared;
      try {
        prepared = build(position);
        position = prepared.after;
        more = !prepared.batches.empty();
      } catch (...) {
        prepared.failure = std::current_exception();
        more = false;
      }
      std::unique_lock<std::mutex> lock(mutex);
      changed.wait(
          lock, [this] { return stop || static_cast<std::int64_t>(ready.size()) < options.prefetch_steps; });
      if (stop) return;
      ready.push_back(std::move(prepared));
      changed.notify_all();
    }
  }

  void stop_builder() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    changed.notify_all();
    if (builder.joinable()) builder.join();
    ready.clear();
    stop = false;
  }

  Prepared take() {
    if (options.prefetch_threads == 0) return build(delivered);
    if (!builder.joinable()) builder = std::thread([this] { run_builder(); });
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [this] { return !ready.empty(); });
    Prepared prepared = std::move(ready.front());
    ready.pop_front();
    lock.unlock();
    changed.notify_all();
    return prepared;
  }

  std::vector<Batch> next_step() {
    Prepared prepared = take();
    if (prepared.failure || prepared.batches.empty()) stop_builder();  // asked again, it begins anew
    if (prepared.failure) std::rethrow_exception(prepared.failure);
    delivered = std::move(prepared.after);
    return std::move(prepared.batches);
  }

  Cursor cursor() const {
    Cursor result;
    result.step = delivered.step;
    for (const SourcePtr& source : sources) result.sources.push_back(fingerprint(*source));
    result.mixture = delivered.mixture;
    for (const Piece& piece : delivered.carry) {
      result.carried.push_back({piece.source, piece.sample, piece.begin, piece.end});
    }
    return result;
  }

  void seek(const Cursor& cursor) {
    Position position;
    if (cursor.sources.size() != sources.size() || cursor.mixture.sources.size() != sources.size()) {
      throw StateError("the position to go on from is of ", cursor.sources.size(), " sources, there are ",
                       sources.size());
    }
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (cursor.sources[i] != fingerprint(*sources[i])) {
        throw StateError("the position to go on from is in source ", cursor.sources[i], ", now it is ",
                         fingerprint(*sources[i]), "; go on with the same data, or start a new run");
      }
    }
    position.step = cursor.step;
    position.mixture = cursor.mixture;
    for (const Cursor::Carried& carried : cursor.carried) {
      if (carried.source < 0 || carried.source >= static_cast<std::int64_t>(sources.size()) ||
          carried.sample < 0) {
        throw StateError("the position to go on from names source ", carried.source, ", sample ",
                         carried.sample, ", which there is not");
      }
      auto sequence = streams[static_cast<std::size_t>(carried.source)]->encode(carried.sample);
      if (carried.begin < 0 || carried.begin >= carried.end || carried.end > sequence->size()) {
        throw StateError("the position to go on from is in tokens ", carried.begin, " to ", carried.end,
                         " of a sample of ", sequence->size(), "; the text or the tokenizer has changed");
      }
      position.carry.push_back(
          {std::move(sequence), carried.source, carried.sample, carried.begin, carried.end});
    }
    stop_builder();
    delivered = std::move(position);
  }

  std::vector<SourceShare> shares() const {
    const bool by_tokens = options.mixture.unit == "tokens";
    std::vector<SourceShare> result;
    double samples = 0;
    double tokens = 0;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const MixtureState::PerSource& state = delivered.mixture.sources[i];
      SourceShare share;
      share.source = sources[i]->name();
      share.language = sources[i]->languages().front();
      share.samples = state.samples - state.dropped;
      share.dropped = state.dropped;
      share.tokens = state.tokens;
      share.epochs = static_cast<double>(state.samples) / static_cast<double>(sources[i]->size());
      share.realised_samples = static_cast<double>(share.samples);
      share.realised_tokens = static_cast<double>(share.tokens);
      share.asked = (by_tokens ? share.realised_tokens : share.realised_samples) + state.credit;
      samples += share.realised_samples;
      tokens += share.realised_tokens;
      result.push_back(std::move(share));
    }
    const std::vector<double> first = mixture->shares(0);
    for (std::size_t i = 0; i < result.size(); ++i) {
      SourceShare& share = result[i];
      const double total = by_tokens ? tokens : samples;
      share.asked = total > 0 ? share.asked / total : first[i];
      if (samples > 0) share.realised_samples /= samples;
      if (tokens > 0) share.realised_tokens /= tokens;
      share.realised = by_tokens ? share.realised_tokens : share.realised_samples;
    }
    return result;
  }
};

Loader::Loader(LoaderOptions options, std::vector<SourcePtr> sources, const Encode& encode, LoaderRun run)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(sources), encode, run)) {}
Loader::~Loader() = default;

std::vector<Batch> Loader::next_step() {
  return impl_->next_step();
}
Cursor Loader::cursor() const {
  return impl_->cursor();
}
void Loader::seek(const Cursor& cursor) {
  impl_->seek(cursor);
}
const std::vector<std::string>& Loader::languages() const {
  return impl_->languages;
}
std::vector<SourceShare> Loader::shares() const {
  return impl_->shares();
}
std::int64_t Loader::tokens_per_step() const {
  return impl_->options.rows_per_step * impl_->options.sequence_length;
}

std::string describe(const std::vector<SourceShare>& shares, const std::string& unit) {
  std::string result;
  for (const SourceShare& share : shares) {
    const std::string numbers = format("asked %.1f %%, realised %.1f %% of %s", 100 * share.asked,
                                       100 * share.realised, unit.c_str());
    result +=
        to_text(result.empty() ? "" : "\n", share.source, ": ", numbers, " (", with_thousands(share.tokens),
                " tokens, ", with_thousands(share.samples), " samples, ", format("%.2f", share.epochs),
                " epochs", share.dropped > 0 ? to_text(", ", share.dropped, " dropped") : "", ")");
  }
  return result;
}

}  // namespace bitrain::data
