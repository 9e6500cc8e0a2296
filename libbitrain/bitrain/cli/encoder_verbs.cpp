#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/base/cuda_library.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/cli/cli.h>
#include <bitrain/cli/text_options.h>
#include <bitrain/data/source.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/hard_negatives.h>
#include <bitrain/eval/mining_file.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/io/json.h>
#include <bitrain/io/resumable_file.h>
#include <bitrain/recipe/decode.h>
#include <bitrain/train/progress.h>
#include <bitrain/train/signals.h>

namespace bitrain::cli {
namespace fs = std::filesystem;
namespace {

struct MineArguments {
  data::SourceOptions data;
  eval::HardNegativeOptions mining;
  std::string similarity;
  std::string out;
  std::string encoder;
  std::string corpus;
  std::string text_prompt;
  std::string pair_prompt;
  std::string device = "cpu";
  std::int64_t block = 1024;
  bool bm25 = false;
};

/// Thrown out of long work once SIGINT or SIGTERM was noted.
struct Interrupted {};

void stop_when_interrupted() {
  if (train::SignalWatch::received() != 0) throw Interrupted{};
}

/// Rate and time left on stderr: one line drawn again on a terminal, else a line now and then.
class Meter {
 public:
  Meter(std::string what, std::int64_t done, std::int64_t total)
      : what_(std::move(what)), begun_(done), total_(total) {
    if (log_level() > LogLevel::kInfo) style_ = train::ProgressStyle::kNone;
  }
  ~Meter() {
    if (drawn_) std::fputs("\r\x1b[K", stderr);
  }
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  void show(std::int64_t done) {
    const Clock::time_point now = Clock::now();
    const bool bar = style_ == train::ProgressStyle::kBar;
    if (style_ == train::ProgressStyle::kNone || done <= begun_) return;
    if (done < total_ && now - shown_ < std::chrono::milliseconds(bar ? 100 : 5000)) return;
    shown_ = now;
    drawn_ = bar;
    const double seconds = std::max(1e-9, std::chrono::duration<double>(now - start_).count());
    const double rate = static_cast<double>(done - begun_) / seconds;
    std::fprintf(stderr, "%s%s %s/%s  %s/s  %s left%s", bar ? "\r\x1b[K" : "", what_.c_str(),
                 with_thousands(done).c_str(), with_thousands(total_).c_str(),
                 with_thousands(static_cast<std::int64_t>(rate)).c_str(),
                 human_seconds(static_cast<double>(total_ - done) / rate).c_str(), bar ? "" : "\n");
    std::fflush(stderr);
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  std::int64_t begun_;
  std::int64_t total_;
  train::ProgressStyle style_ = train::progress_style("auto");
  Clock::time_point start_ = Clock::now();
  Clock::time_point shown_ = start_;
  bool drawn_ = false;
};

eval::MiningPairs read_pairs(const MineArguments& arguments) {
  data::SourceOptions options = arguments.data;
  if (options.pair_column) {
    options.text_field.clear();
    options.pair_field.clear();
  }
  data::SourceCounts counts;
  const data::SourcePtr source = data::open_source_once(
      options, options.held_out_every > 0 ? data::Split::kTrain : data::Split::kAll, &counts);
  log_invalid(options, counts);
  return eval::read_mining_pairs(*source, counts, options.path);
}

std::optional<std::vector<std::string>> read_corpus(const std::string& path) {
  if (path.empty()) return std::nullopt;
  return eval::read_mining_corpus(path);
}

/// FNV-1a over all that is read, with lengths, so that no two sets run into one another.
std::string hash_of(const eval::MiningSet& set) {
  std::uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](const std::string& text) {
    for (const char c : std::to_string(text.size()) + ":")
      hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3;
    for (const char c : text) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3;
  };
  for (const eval::MiningPair& pair : set.pairs) {
    add(pair.query);
    add(pair.positive);
  }
  add(std::to_string(set.candidates));
  for (const std::string& text : set.texts) add(text);
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(hash));
  return hex;
}

/// Size and time of every file of a model.
io::Json files_of(const fs::path& directory) {
  std::map<std::string, io::Json> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory, error))
    if (entry.is_regular_file())
      files[entry.path().lexically_relative(directory).string()] = {
          entry.file_size(), entry.last_write_time().time_since_epoch().count()};
  return files;
}

/// What the lines depend on.
io::Json made_from(const MineArguments& arguments, const eval::MiningSet& set) {
  io::Json options = recipe::to_json(arguments.mining);
  options["text_field"] = arguments.data.text_field;
  options["pair_field"] = arguments.data.pair_field;
  options["negatives_field"] = arguments.data.negatives_field;
  io::Json json = {{"schema", 1}, {"texts", hash_of(set)}};
  if (arguments.bm25) {
    json["retriever"] = "bm25";
    options.erase("similarity");
  } else {
    json["retriever"] = "encoder";
    json["encoder"] = files_of(arguments.encoder);
    options["text_prompt"] = arguments.text_prompt;
    options["pair_prompt"] = arguments.pair_prompt;
    options["block"] = arguments.block;
    options["device"] = arguments.device;
  }
  json["options"] = std::move(options);
  return json;
}

/// Opens the encoder and embeds all texts.
eval::NegativeFinder dense_finder(const MineArguments& arguments, const eval::MiningSet& set,
                                  const hub::OpenedSentenceEncoder& opened) {
  eval::EncodeOptions texts;
  texts.max_length = opened.settings.max_seq_length;
  texts.include_prompt = opened.settings.include_prompt;
  texts.truncate_dim = std::min(opened.settings.truncate_dim.value_or(0), opened.model->dimension());
  eval::EncodeOptions queries = texts;
  texts.prompt = arguments.pair_prompt;
  Meter meter("texts embedded", 0, static_cast<std::int64_t>(set.texts.size()));
  texts.progress = [&](std::int64_t done) {
    stop_when_interrupted();
    meter.show(done);
  };
  queries.prompt = arguments.text_prompt;
  queries.progress = [](std::int64_t) { stop_when_interrupted(); };
  return eval::find_by_encoder(set, *opened.model, *opened.tokenizer, queries, texts, arguments.mining);
}

std::shared_ptr<hub::OpenedSentenceEncoder> open_encoder(const MineArguments& arguments) {
  if (arguments.device == "cuda") require_cuda();
  hub::OpenOptions options;
  options.device = at::Device(arguments.device);
  return std::make_shared<hub::OpenedSentenceEncoder>(hub::open_sentence_encoder(arguments.encoder, options));
}

/// Mines the pairs that `out` lacks.
eval::MiningTally mine_rest(const MineArguments& arguments, const eval::MiningSet& set,
                            const eval::NegativeFinder& find, io::ResumableFile& out) {
  const auto total = static_cast<std::int64_t>(set.pairs.size());
  Meter meter("pairs mined", out.lines(), total);
  const data::SourceOptions& data = arguments.data;
  return eval::mine_into(out, set, find, arguments.mining.negatives,
                         {data.text_field, data.pair_field, data.negatives_field}, arguments.block,
                         [&](std::int64_t done) {
                           if (done < total) stop_when_interrupted();
                           meter.show(done);
                         });
}

void check_arguments(const MineArguments& arguments) {
  if (arguments.bm25 == !arguments.encoder.empty())
    throw ConfigError("mine-negatives: say what finds the negatives, --encoder or --bm25");
  if (arguments.block < 1)
    throw ConfigError("mine-negatives: --block must be at least 1, not ", arguments.block);
  const data::SourceOptions& data = arguments.data;
  if (data.text_field.empty() || data.pair_field.empty() || data.negatives_field.empty() ||
      data.text_field == data.pair_field || data.text_field == data.negatives_field ||
      data.pair_field == data.negatives_field)
    throw ConfigError(
        "mine-negatives: the names of text, pair and negatives must be three different ones, not '",
        data.text_field, "', '", data.pair_field, "' and '", data.negatives_field, "'");
  eval::check_options(arguments.mining);
}

/// Of the folder's own similarity where none was asked for.
void set_similarity(MineArguments& arguments, const hub::SentenceSettings& settings) {
  arguments.mining.similarity =
      arguments.similarity.empty() ? settings.similarity_fn_name : arguments.similarity;
  if (arguments.mining.similarity != "cosine" && arguments.mining.similarity != "dot")
    throw UnsupportedError(arguments.encoder, ": its similarity is '", arguments.mining.similarity,
                           "', which mining does not know; set --similarity to cosine or dot");
}

void mine_negatives(MineArguments arguments, Outcome& outcome) {
  check_arguments(arguments);
  const eval::MiningPairs read = read_pairs(arguments);
  const eval::MiningSet set = eval::make_mining_set(read.pairs, read_corpus(arguments.corpus));
  std::shared_ptr<hub::OpenedSentenceEncoder> encoder;
  if (!arguments.bm25) {
    encoder = open_encoder(arguments);
    set_similarity(arguments, encoder->settings);
  }
  const train::SignalWatch signals;
  io::ResumableFile out(arguments.out, made_from(arguments, set));
  log_info(with_thousands(static_cast<std::int64_t>(set.pairs.size())), " pairs, ",
           with_thousands(set.candidates), " candidates",
           read.skipped > 0
               ? "; left out for an empty side or twice the same text: " + with_thousands(read.skipped)
               : "",
           out.lines() > 0 ? "; going on after " + with_thousands(out.lines()) + " pairs" : "");
  eval::MiningTally tally;
  try {
    eval::NegativeFinder find;
    if (out.lines() < static_cast<std::int64_t>(set.pairs.size()))
      find = arguments.bm25 ? eval::find_by_words(set, arguments.mining)
                            : dense_finder(arguments, set, *encoder);
    tally = mine_rest(arguments, set, find, out);
  } catch (const Interrupted&) {
    std::fprintf(stderr, "bitrain: interrupted after %s pairs; run the same command to go on\n",
                 with_thousands(out.lines()).c_str());
    outcome.code = 128 + train::SignalWatch::received();
    train::SignalWatch::obey();
    return;
  }
  out.commit();
  train::SignalWatch::obey();  // All is done.
  print(to_text(with_thousands(tally.negatives), " negatives for ", with_thousands(out.lines()), " pairs; ",
                with_thousands(tally.fewer), " pairs have fewer than ",
                with_thousands(arguments.mining.negatives), ", of which ", with_thousands(tally.none),
                " none\n", arguments.out, "\n"));
}

void add_inputs(CLI::App& verb, MineArguments& arguments) {
  data::SourceOptions& data = arguments.data;
  data.text_field = "query";  // As a contrastive stage reads them.
  data.pair_field = "positive";
  add_text_options(verb, data, "pairs", "JSON or TSV file of pairs or a pipe, also .gz or .zst")->required();
  is_path(
      verb.add_option("--out", arguments.out, "JSONL file to write: text, pair and negatives")->required());
  is_path(verb.add_option("--encoder", arguments.encoder,
                          "sentence-transformers folder that finds the negatives"));
  verb.add_flag("--bm25", arguments.bm25, "Find them by their words instead");
  is_path(
      verb.add_option("--corpus", arguments.corpus,
                      "BEIR's corpus.jsonl with the candidates (default: all distinct pairs' second texts)"));
  verb.add_option("--pair-field", data.pair_field, "JSONL: key of the translation or passage")
      ->capture_default_str();
  verb.add_option("--negatives-field", data.negatives_field, "Key of the negatives in --out")
      ->capture_default_str();
  verb.add_option("--pair-column", data.pair_column, "TSV: column of the translation, from 1");
  verb.add_option("--held-out-every", data.held_out_every,
                  "Leave out every k-th row, as held_out.every keeps them for evaluation");
}

void add_mine_negatives(CLI::App& app, Outcome& outcome) {
  auto arguments = std::make_shared<MineArguments>();
  CLI::App* verb = app.add_subcommand(
      "mine-negatives", "Find hard negatives for pairs; an interrupted run goes on when it is run again");
  add_inputs(*verb, *arguments);
  eval::HardNegativeOptions& mining = arguments->mining;
  verb->add_option("--negatives", mining.negatives, "Negatives of each pair")->capture_default_str();
  verb->add_option("--rank-from", mining.rank_from, "Candidates passed over at the top")
      ->capture_default_str();
  verb->add_option("--rank-to", mining.rank_to, "Ranks from here on are not looked at")
      ->capture_default_str();
  verb->add_option("--max-score", mining.max_score, "Highest score of a negative");
  verb->add_option("--margin", mining.margin, "A negative scores this much less than the lowest positive");
  verb->add_option("--relative-margin", mining.relative_margin,
                   "A negative scores less than the lowest positive by this share of it");
  verb->add_flag("--fill", mining.fill, "Draw others at random where fewer are left");
  verb->add_option("--sampling", mining.sampling, "Of those that are left: the top, or random ones")
      ->check(CLI::IsMember({"top", "random"}))
      ->capture_default_str();
  verb->add_option("--seed", mining.seed, "Seed of random sampling")->capture_default_str();
  verb->add_option("--similarity", arguments->similarity, "cosine or dot (default: the encoder's own)")
      ->check(CLI::IsMember({"cosine", "dot"}));
  verb->add_option("--text-prompt", arguments->text_prompt,
                   "Put before every text, for encoders that want one");
  verb->add_option("--pair-prompt", arguments->pair_prompt, "Put before every candidate");
  verb->add_option("--block", arguments->block, "Pairs between two writes")->capture_default_str();
  verb->add_option("--device", arguments->device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  verb->callback([arguments, &outcome] { mine_negatives(*arguments, outcome); });
}

}  // namespace

void add_encoder_verbs(CLI::App& app, Outcome& outcome) {
  add_mine_negatives(app, outcome);
}

}  // namespace bitrain::cli
