#include <bitrain/recipe/stage_needs.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <system_error>

#include <bitrain/base/checked.h>
#include <bitrain/base/error.h>
#include <bitrain/base/matmul.h>
#include <bitrain/io/unpacked_size.h>
#include <bitrain/recipe/sources.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

constexpr std::uint64_t kRowEntry = 16;  ///< Of an open file, for each row.
constexpr std::uint64_t kString = 48;    ///< A string in a list, with the heap's own bytes.
constexpr std::int64_t kEvalTokens =
    4096;  ///< In a batch of evaluation, where no option says another number.
/// The trainer of a tokenizer has the text as code points, normalised text and counts of pieces: bytes for
/// each byte of text (measured, docs/memory.md).
constexpr double kTrainerBytes = 5;
/// Of an entry of a vocabulary: its piece, and its places in maps of both directions.
constexpr std::uint64_t kVocabularyEntry = 300;
/// Lines whose cosines are compared with the base's, each with each: encoder_stage.cpp.
constexpr std::int64_t kAgreementLines = 1000;

std::uint64_t bytes_of(double count) {
  return static_cast<std::uint64_t>(std::max(0.0, count));
}
std::uint64_t times(std::int64_t count, std::uint64_t bytes) {
  return checked_product({static_cast<std::uint64_t>(std::max<std::int64_t>(0, count)), bytes},
                         "tokens in memory * bytes of a token");
}

std::uint64_t features_of(const ModelShape& model) {
  return static_cast<std::uint64_t>(model.map_features);
}
std::uint64_t weights_of(const ModelShape& model) {
  return static_cast<std::uint64_t>(model.map_weights);
}

std::int64_t both(const TextSample::Row& row, std::int64_t longest) {
  std::int64_t tokens = std::min(row.text, longest) + std::min(row.pair, longest);
  for (const std::int64_t negative : row.negatives) tokens += std::min(negative, longest);
  return tokens;
}

/// 0 for a file that cannot be read: others say what is wrong with it.
std::uint64_t file_bytes(const fs::path& path) {
  try {
    std::error_code ignored;
    return fs::is_regular_file(path, ignored) ? io::unpacked_size(path) : 0;
  } catch (const Error&) {
    return 0;
  }
}

/// The mean of a training document, which does not reach over lines that are held out: of nine lines between
/// two of those, documents of at most four have four, four and one.
double lines_of_documents(std::int64_t most, std::int64_t held_out_every) {
  most = std::max<std::int64_t>(1, most);
  if (held_out_every < 2) return static_cast<double>(most);
  const std::int64_t lines = held_out_every - 1;
  const std::int64_t documents = (lines + most - 1) / most;
  return static_cast<double>(lines) / static_cast<double>(documents);
}

}  // namespace

NeedsCounter::NeedsCounter(const Recipe& recipe) : recipe_(recipe) {
  if (recipe.base.empty()) return;
  try {
    tokenizer_ = text::open_tokenizer(recipe.base);
  } catch (const Error&) {  // Tokens are estimated from bytes.
  }
}

StageNeeds NeedsCounter::needs_of(const Stage& stage, const StageShape* shape) {
  stage_ = &stage;
  shape_ = shape;
  needs_ = {};
  if (shape != nullptr) {
    models_[stage.name] = shape->model;
    needs_.data = static_cast<std::uint64_t>(shape->model.vocab) * kVocabularyEntry;
  }
  std::visit([this](const auto& options) { visit(options); }, stage.options);
  return needs_;
}

// ---- Text

const TextSample* NeedsCounter::sample(const data::SourceOptions& options) {
  const std::string key = options.path + "\n" + std::to_string(options.column) + "\n" +
                          std::to_string(options.pair_column.value_or(0)) + "\n" + options.text_field + "\n" +
                          options.pair_field;
  auto found = samples_.find(key);
  if (found == samples_.end()) found = samples_.emplace(key, sample_text(options, tokenizer_)).first;
  return found->second ? &*found->second : nullptr;
}

const TextSample* NeedsCounter::side(bool target) {
  if (!has_lines(recipe_)) return nullptr;
  return sample(side_options(recipe_, target ? recipe_.target : recipe_.source, "side"));
}

const TextSample* NeedsCounter::pairs() {
  if (!has_lines(recipe_) || recipe_.source.path != recipe_.target.path) return nullptr;
  return sample(pair_options(recipe_, "pairs"));
}

const TextSample* NeedsCounter::pair_file(const PairFileOptions& file) {
  if (file.stage.empty()) return sample(pair_file_options(recipe_, file));
  const Stage* stage = recipe_.find(file.stage);
  const auto* mining = stage == nullptr ? nullptr : std::get_if<MineNegativesStage>(&stage->options);
  const TextSample* mined = mining == nullptr ? nullptr : pair_file(mining->pairs);
  if (mined == nullptr) return nullptr;
  // Its negatives are other rows' answers.
  TextSample with = *mined;
  for (std::size_t i = 0; i < with.rows.size(); ++i) {
    with.rows[i].negatives.clear();
    const auto negatives = std::min(mining->mining.negatives, static_cast<std::int64_t>(mined->rows.size()));
    for (std::int64_t j = 1; j <= negatives; ++j)
      with.rows[i].negatives.push_back(
          mined->rows[(i + static_cast<std::size_t>(j)) % mined->rows.size()].pair);
  }
  return &*samples_.insert_or_assign("mined\n" + file.stage, std::move(with)).first->second;
}

/// An open file: mapped or unpacked, with an index of its rows.
void NeedsCounter::open(const TextSample* sample) {
  if (sample != nullptr) needs_.data += sample->file_bytes + times(sample->file_rows, kRowEntry);
}

/// Texts as strings.
void NeedsCounter::keep_lines(const TextSample* sample, double share) {
  if (sample == nullptr) return;
  const double bytes = sample->text_bytes + sample->pair_bytes + static_cast<double>(kString);
  needs_.data += bytes_of(share * static_cast<double>(sample->file_rows) * bytes);
}

std::int64_t NeedsCounter::held_out_rows(const TextSample* sample) const {
  if (sample == nullptr) return 0;
  std::int64_t rows = recipe_.held_out.last;
  if (recipe_.held_out.every > 0) rows += sample->file_rows / recipe_.held_out.every;
  if (recipe_.held_out.max_documents > 0) rows = std::min(rows, recipe_.held_out.max_documents);
  return std::min(rows, sample->file_rows);
}

double NeedsCounter::held_out_share(const TextSample& sample) const {
  if (sample.file_rows == 0) return 0;
  return static_cast<double>(held_out_rows(&sample)) / static_cast<double>(sample.file_rows);
}

// ---- Passes

/// Whether the CPU multiplies 16-bit matrices in float32, so that operands and results are held so too.
bool NeedsCounter::computes_wide(const ModelShape& model) const {
  return recipe_.device == "cpu" && model.element == 2 && narrow_products() != NarrowProducts::kQuick;
}

/// A layer at its widest point, and a product in float32.
std::uint64_t NeedsCounter::forward(const ModelShape& model, std::int64_t tokens) const {
  std::uint64_t bytes = times(tokens, model.widest) + model.decoded_bytes;
  if (computes_wide(model)) bytes += 4 * (times(tokens, features_of(model)) + weights_of(model));
  return bytes;
}

/// Logits of a chunk, the head's gradient where it is trained, and products in float32.
std::uint64_t NeedsCounter::head(const ModelShape& model, std::int64_t tokens, bool trained) const {
  const std::int64_t rows = std::min(tokens, kLogitRows);
  const std::uint64_t table = times(model.vocab, static_cast<std::uint64_t>(model.hidden));
  const auto element = static_cast<std::uint64_t>(model.element);
  std::uint64_t bytes = times(rows, static_cast<std::uint64_t>(model.vocab)) * element;
  if (trained) bytes += table * element;
  if (computes_wide(model))
    bytes +=
        4 * (times(rows, static_cast<std::uint64_t>(model.vocab + model.hidden)) + table * (trained ? 2 : 1));
  return bytes;
}

/// What waits for backward, the loss at the head or the gradients of a layer, and a gradient that is about to
/// be added to the sum.
std::uint64_t NeedsCounter::training(std::int64_t tokens) const {
  const ModelShape& model = shape_->model;
  const bool recompute = shape_->train.recompute;
  ModelShape body = model;
  body.logits = 0;
  const auto element = static_cast<std::uint64_t>(model.element);
  std::uint64_t kept = activation_bytes(body, tokens, recompute);
  // Of each adapter the inner features, and its matrices in the type of activations.
  const std::int64_t layers = recompute ? std::max<std::int64_t>(model.layers, 1) : 1;
  kept += times(tokens, static_cast<std::uint64_t>(model.adapter_ranks) * element) /
          static_cast<std::uint64_t>(layers);
  if (element == 2) kept += model.adapter_bytes / 2;
  std::uint64_t widest = forward(model, tokens);
  if (model.head > 0) {
    const double share = static_cast<double>(tokens) * shape_->head_share;
    widest = std::max(widest, head(model, std::llround(std::ceil(share)), model.head_trained));
  }
  return kept + widest + model.largest_trained;
}

std::int64_t NeedsCounter::rows_in_memory() const {
  const data::LoaderOptions& loader = shape_->loader;
  return loader.micro_batch_rows > 0 ? std::min(loader.micro_batch_rows, loader.rows_per_step)
                                     : loader.rows_per_step;
}

/// Rows of texts of their own lengths. Without a sample each has loader.sequence_length tokens.
void NeedsCounter::train_rows(const TextSample* sample,
                              const std::function<std::int64_t(const Row&)>& tokens) {
  if (shape_ == nullptr || !shape_->trains) return;
  const std::int64_t rows = rows_in_memory();
  const std::int64_t all = sample != nullptr
                               ? sample->tokens_of(rows, tokens)
                               : checked_product({rows, shape_->texts, shape_->loader.sequence_length},
                                                 "rows in memory * texts of a row * sequence_length");
  needs_.passes = std::max(needs_.passes, training(all));
}

/// Packed rows, which are full.
void NeedsCounter::train_language_model(const data::LoaderOptions& loader) {
  if (shape_ == nullptr) return;
  needs_.passes = training(
      checked_product({rows_in_memory(), loader.sequence_length}, "rows in memory * sequence_length"));
}

void NeedsCounter::score(std::uint64_t bytes) {
  needs_.scoring = std::max(needs_.scoring, bytes);
}

/// The held-out lines by a language model.
void NeedsCounter::score_text(std::int64_t batch_tokens) {
  if (shape_ == nullptr) return;
  std::int64_t tokens = 0;
  for (const bool target : {false, true}) {
    const TextSample* lines = side(target);
    if (lines == nullptr) continue;
    keep_lines(lines, held_out_share(*lines));
    tokens =
        std::max(tokens, lines->tokens_of(held_out_rows(lines), [](const Row& row) { return row.text; }));
  }
  tokens = std::min(tokens > 0 ? tokens : batch_tokens, batch_tokens);
  score(std::max(forward(shape_->model, tokens), head(shape_->model, tokens, false)));
}

/// `texts` of a sample by an encoder, in batches.
std::uint64_t NeedsCounter::encoding(std::int64_t texts, std::int64_t max_length,
                                     const TextSample* sample) const {
  if (shape_ == nullptr) return 0;
  std::int64_t tokens = kEvalTokens;
  if (sample != nullptr)
    tokens = std::min(tokens, sample->tokens_of(texts, [&](const Row& row) {
      return std::min(std::max(row.text, row.pair), max_length);
    }));
  const std::uint64_t vectors = times(2 * texts, static_cast<std::uint64_t>(shape_->model.hidden) * 4);
  return forward(shape_->model, tokens) + vectors;
}

/// The held-out pairs by an encoder, beside the base: encoder_stage.h.
void NeedsCounter::score_lines(std::int64_t max_length) {
  const TextSample* lines = pairs();
  if (shape_ == nullptr || lines == nullptr) return;
  const std::int64_t rows = held_out_rows(lines);
  open(lines);
  keep_lines(lines, held_out_share(*lines));
  const std::int64_t compared = std::min(rows, kAgreementLines);
  // Cosines of all with all, and of each pair once by both models, in order of rank too.
  const std::uint64_t agreement = times(compared * compared, 4 + 5 * 8 / 2);
  const std::uint64_t base =
      shape_->model.weight_bytes + static_cast<std::uint64_t>(shape_->model.vocab) * kVocabularyEntry;
  score(encoding(rows, max_length, lines) + base + agreement);
}

/// It is written in float32, a tensor at a time.
void NeedsCounter::save_encoder() {
  if (shape_ == nullptr) return;
  score(std::max(shape_->model.largest_trained, shape_->model.largest_piece) * 2);
}

// ---- Stages of language models

void NeedsCounter::visit(const TokenizerStage& options) {
  const TextSample* lines = side(options.text == "target");
  open(lines);
  keep_lines(lines);
  if (lines != nullptr)
    needs_.data += bytes_of(static_cast<double>(lines->file_rows) * lines->text_bytes * kTrainerBytes);
  needs_.data += static_cast<std::uint64_t>(options.tokenizer.vocab_size) * kVocabularyEntry;
}

void NeedsCounter::visit(const PretrainStage& options) {
  for (const bool target : {false, true}) open(side(target));
  open(side(false));  // For the held-out lines.
  train_language_model(options.data.loader);
  score_text(kEvalTokens);
}

void NeedsCounter::visit(const CptStage& options) {
  for (const bool target : {false, true}) open(side(target));
  open(side(false));
  train_language_model(options.data.loader);
  score_text(kEvalTokens);
}

void NeedsCounter::visit(const SftStage& options) {
  for (std::size_t i = 0; i < options.instructions.size(); ++i)
    for (int split = 0; split < 2; ++split) open(side(false));
  for (const ConversationFileOptions& file : options.files)
    for (int split = 0; split < 2; ++split) open(sample(file_options(recipe_, options, file)));
  train_language_model(options.loader);
  if (shape_ == nullptr) return;
  score(std::max(forward(shape_->model, kEvalTokens), head(shape_->model, kEvalTokens, false)));
}

void NeedsCounter::visit(const EvaluateStage& options) {
  open(side(false));
  score_text(options.perplexity.batch_tokens);
}

void NeedsCounter::visit(const EvaluateMexaStage& options) {
  const TextSample* lines = pairs();
  open(lines);
  if (shape_ == nullptr) return;
  const ModelShape& model = shape_->model;
  std::int64_t tokens = options.mexa.batch_tokens;
  if (lines != nullptr)
    tokens = std::min(tokens, lines->tokens_of(std::min(options.sentences, lines->file_rows),
                                               [](const Row& row) { return std::max(row.text, row.pair); }));
  const auto states = static_cast<std::uint64_t>((model.layers + 1) * model.hidden);
  // The states of all layers, and the vectors of both sides in float32 and float64.
  score(forward(model, tokens) + times(tokens, states * static_cast<std::uint64_t>(model.element)) +
        times(2 * options.sentences, states * (4 + 8)));
}

void NeedsCounter::visit(const ExtendStage& /*options*/) {
  const TextSample* lines = side(true);
  open(lines);
  keep_lines(lines);
  if (lines != nullptr)
    needs_.data += bytes_of(static_cast<double>(lines->file_rows) * lines->text_bytes * kTrainerBytes);
  score_text(kEvalTokens);
  if (shape_ == nullptr) return;
  // Tables before and after, and the new one in float32.
  const ModelShape& model = shape_->model;
  score(2 * times(model.vocab * model.hidden, static_cast<std::uint64_t>(model.element + 4)));
}

void NeedsCounter::visit(const MergeStage& options) {
  open(side(false));
  if (options.evaluate) score_text(kEvalTokens);
  if (shape_ == nullptr) return;
  const ModelShape& model = shape_->model;
  // Packed weights and adapters until they are merged, and the largest map in float32 three times.
  if (const auto adapted = models_.find(stage_->from); adapted != models_.end())
    needs_.models += adapted->second.adapter_bytes + adapted->second.quantized_bytes;
  needs_.scoring +=
      3 * model.largest_piece * 4 / static_cast<std::uint64_t>(std::max<std::int64_t>(model.element, 1));
  std::int64_t tokens = 2 * kMergeRows * kMergeRowTokens;
  if (const TextSample* lines = side(false))
    tokens =
        2 * lines->tokens_of(kMergeRows, [](const Row& row) { return std::min(row.text, kMergeRowTokens); });
  // Logits in the model's type and in float32 twice, and 64 rows of them in float64 eight times.
  const auto vocab = static_cast<std::uint64_t>(model.vocab);
  score(times(tokens, vocab * static_cast<std::uint64_t>(2 * 4 + model.element)) +
        std::max(times(std::min<std::int64_t>(tokens, 64), vocab * 8 * 8), head(model, tokens, false)));
}

// ---- Stages of encoders

void NeedsCounter::visit(const EvaluateEncoderStage& options) {
  if (!options.calibrate.empty()) open(pairs());
  score_lines(options.retrieval.max_length);
  if (shape_ != nullptr && !options.calibrate.empty())
    needs_.scoring +=
        times(3 * options.calibration_lines, static_cast<std::uint64_t>(shape_->model.hidden) * 4 * 3);
}

void NeedsCounter::visit(const ExtendEncoderStage& options) {
  const TextSample* lines = side(true);
  open(lines);
  keep_lines(lines);
  score_lines(options.retrieval.max_length);
  if (shape_ == nullptr) return;
  const ModelShape& model = shape_->model;
  score(2 * times(model.vocab * model.hidden, static_cast<std::uint64_t>(model.element + 4)));
}

void NeedsCounter::train_on_pairs(const std::vector<PairFileOptions>& files,
                                  const std::function<std::int64_t(const Row&)>& tokens) {
  for (const PairFileOptions& file : files) {
    const TextSample* rows = pair_file(file);
    open(rows);
    train_rows(rows, tokens);
  }
}

void NeedsCounter::visit(const ContrastiveStage& options) {
  const auto tokens = [&](const Row& row) { return both(row, options.objective.max_length); };
  if (options.pairs) {
    open(pairs());
    train_rows(pairs(), tokens);
  }
  train_on_pairs(options.files, tokens);
  if (!options.teacher.empty() && shape_ != nullptr) {
    const auto teacher = models_.find(options.teacher);
    needs_.models = (teacher == models_.end() ? shape_->model : teacher->second).weight_bytes +
                    static_cast<std::uint64_t>(shape_->model.vocab) * kVocabularyEntry;
  }
  if (has_lines(recipe_)) score_lines(options.retrieval.max_length);
  if (trains_adapters(options.lora) && shape_ != nullptr)
    score(static_cast<std::uint64_t>(shape_->model.parameters) * 4);  // The exact model they are merged into.
  save_encoder();
}

void NeedsCounter::visit(const MaskedLmStage& options) {
  const std::int64_t longest = options.objective.max_length;
  for (const bool target : {false, true}) {
    if (!options.texts) break;
    open(side(target));
    train_rows(side(target), [&](const Row& row) {
      return std::min(options.next_sentence ? 2 * row.text : row.text, longest);
    });
  }
  if (options.pairs) {
    open(pairs());
    train_rows(pairs(), [&](const Row& row) { return std::min(row.text + row.pair, longest); });
  }
  if (shape_ == nullptr) return;
  const ModelShape& model = shape_->model;
  constexpr std::int64_t kTexts = 32;  // In a batch of eval::score_masked.
  std::int64_t tokens = kTexts * longest;
  if (const TextSample* lines = side(true))
    tokens = lines->tokens_of(
        kTexts, [&](const Row& row) { return std::min(options.pairs ? 2 * row.text : row.text, longest); });
  const auto masked =
      static_cast<std::int64_t>(static_cast<double>(tokens) * options.objective.masking.share);
  // Logits as they come, in float32 and their logarithms twice.
  score(forward(model, tokens) +
        times(masked, static_cast<std::uint64_t>(model.vocab * (model.element + 12))));
  save_encoder();
}

void NeedsCounter::visit(const ContextPredictionStage& options) {
  for (const bool target : {false, true}) open(side(target));
  const std::int64_t longest = options.objective.max_length;
  for (const bool target : {false, true})
    train_rows(side(target), [&](const Row& row) { return 2 * std::min(row.text, longest); });
  score_lines(options.retrieval.max_length);
  save_encoder();
}

void NeedsCounter::visit(const DocumentEncoderStage& options) {
  open(pairs());
  const double lines = lines_of_documents(options.lines_per_document, recipe_.held_out.every);
  // Two documents, and of each side a hard negative.
  const int documents = options.neighbourhood > 0 ? 2 : 1;
  const std::int64_t longest = options.objective.max_length;
  train_rows(pairs(), [&](const Row& row) {
    return std::llround(documents * lines * static_cast<double>(both(row, longest)));
  });
  open(pairs());
  if (shape_ != nullptr) score(forward(shape_->model, kEvalTokens));
  save_encoder();
}

void NeedsCounter::visit(const SimilarityStage& options) {
  for (const ScoredFileOptions& file : options.files) {
    const TextSample* rows = sample(scored_options(recipe_, file));
    open(rows);
    train_rows(rows, [&](const Row& row) { return both(row, options.objective.max_length); });
  }
  save_encoder();
}

void NeedsCounter::visit(const EvaluateSimilarityStage& options) {
  for (const ScoredFileOptions& file : options.files) {
    const TextSample* rows = sample(scored_options(recipe_, file));
    open(rows);
    if (rows == nullptr) continue;
    keep_lines(rows);
    score(encoding(rows->file_rows, options.max_length, rows));
  }
}

void NeedsCounter::visit(const LanguageAdaptersStage& /*options*/) {
  if (shape_ == nullptr) return;
  // The model without adapters, whose weights the new one copies.
  score(shape_->model.weight_bytes);
  save_encoder();
}

void NeedsCounter::visit(const LateInteractionStage& options) {
  train_on_pairs(options.files, [&](const Row& row) {
    std::int64_t tokens = options.model.query_expansion ? options.model.query_length
                                                        : std::min(row.text, options.model.query_length);
    tokens += std::min(row.pair, options.model.document_length);
    const auto most = static_cast<std::size_t>(std::max<std::int64_t>(0, options.objective.negatives));
    for (std::size_t i = 0; i < std::min(most, row.negatives.size()); ++i)
      tokens += std::min(row.negatives[i], options.model.document_length);
    return tokens;
  });
  save_encoder();
}

void NeedsCounter::visit(const MineNegativesStage& options) {
  const TextSample* rows = pair_file(options.pairs);
  open(rows);
  keep_lines(rows, 2);  // As they are read, and as a set of candidates.
  if (rows != nullptr) score(encoding(rows->file_rows, options.max_length, rows));
}

void NeedsCounter::visit(const CrossEncoderStage& options) {
  const std::int64_t longest = options.objective.max_length;
  train_on_pairs(options.files, [&](const Row& row) {
    std::int64_t tokens = std::min(row.text + row.pair, longest);
    for (const std::int64_t negative : row.negatives) tokens += std::min(row.text + negative, longest);
    return tokens;
  });
  save_encoder();
}

void NeedsCounter::visit(const EvaluateRetrievalStage& options) {
  for (const CollectionOptions& collection : options.collections) {
    const fs::path folder = resolve(recipe_, collection.path);
    std::uint64_t bytes = 0;
    for (const char* name : {"corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst", "queries.jsonl"})
      bytes += file_bytes(folder / name);
    // The set, its texts once more, and postings of their words.
    needs_.data += 4 * bytes;
    data::SourceOptions corpus;
    corpus.path = (folder / "corpus.jsonl").string();
    for (const char* packed : {".gz", ".zst"})
      if (std::error_code ignored;
          !fs::exists(corpus.path, ignored) && fs::exists(corpus.path + packed, ignored))
        corpus.path += packed;
    corpus.format = "jsonl";
    corpus.text_field = "text";
    const TextSample* documents = sample(corpus);
    score(encoding(documents == nullptr ? 0 : documents->file_rows, options.max_length, documents));
  }
  const auto reranker = models_.find(options.rerank);
  if (reranker != models_.end()) {
    needs_.models =
        reranker->second.weight_bytes + static_cast<std::uint64_t>(reranker->second.vocab) * kVocabularyEntry;
    score(forward(reranker->second, kEvalTokens));
  }
}

void NeedsCounter::visit(const EvaluateLexiconStage& options) {
  std::uint64_t bytes = 0;
  for (const DictionaryOptions& dictionary : options.dictionaries)
    bytes += file_bytes(resolve(recipe_, dictionary.path));
  needs_.data += 8 * bytes;
  constexpr std::uint64_t kPair = 20;
  score(encoding(static_cast<std::int64_t>(bytes / kPair), options.max_length, nullptr));
}

void NeedsCounter::visit(const AlignWordsStage& options) {
  // Words are few beside their vectors, of which text has about eight bytes for a number of four. Both sides
  // are held, and changed: centred, mapped, and once more for each map that is written.
  for (const std::string& path : {options.source_vectors, options.target_vectors})
    needs_.data += 2 * file_bytes(resolve(recipe_, path));
}

}  // namespace bitrain::recipe
