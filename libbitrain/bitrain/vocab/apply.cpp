#include <bitrain/vocab/apply.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/models/llama/config.h>

namespace bitrain::vocab {
namespace {

/// What grows in a model.
struct Tables {
  nn::Embedding& embedding;
  nn::Linear* head = nullptr;  ///< Null: there is none.
  bool tied = false;           ///< The head's weight is the embedding's.
  std::int64_t& vocab_size;    ///< In the config.

  [[nodiscard]] bool own_head() const { return head != nullptr && !tied; }
};

Tables tables_of(models::LanguageModel& model) {
  return {model.input_embeddings(), &model.output_head(), model.tied(), model.config().vocab_size};
}
Tables tables_of(models::EncoderModel& model) {
  return {model.input_embeddings(), nullptr, false, model.config().vocab_size};
}

/// A plan, whichever kind of tokenizer it is for.
struct Growth {
  const text::Tokenizer& base;
  const std::vector<NewPiece>& pieces;
  std::function<float(text::TokenId)> bytes;  ///< Of the text that an old piece stands for.
  std::int64_t vocab_size = 0;                ///< Of the extended tokenizer.

  [[nodiscard]] std::int64_t old_vocab_size() const { return base.vocab_size(); }
};

Growth growth_of(const ExtensionPlan& plan) {
  const auto bytes = [&old = plan.base->model().pieces](text::TokenId id) {
    const text::SpmPiece& piece = old.at(static_cast<std::size_t>(id));
    return piece.type == text::PieceType::kByte ? 1.0F : static_cast<float>(piece.text.size());
  };
  return {*plan.base, plan.pieces, bytes, plan.vocab_size()};
}
Growth growth_of(const WordPiecePlan& plan) {
  const auto bytes = [&base = *plan.base](text::TokenId id) {
    const std::string piece = base.id_to_piece(id);
    const bool continues = piece.size() > 2 && piece.compare(0, 2, "##") == 0;
    return static_cast<float>(piece.size() - (continues ? 2 : 0));
  };
  return {*plan.base, plan.pieces, bytes, plan.vocab_size()};
}

void check_extensible(const Tables& tables, const Growth& growth) {
  if (tables.head != nullptr && tables.head->is_quantized())
    throw StateError(
        "the output head is quantised and cannot grow: extend the vocabulary first, then quantise");
  const nn::Embedding& embedding = tables.embedding;
  const bool adapted_head =
      tables.head != nullptr && (!tables.head->adapters.empty() || tables.head->trainable_rows);
  if (!embedding.adapters.empty() || embedding.trainable_rows || adapted_head)
    throw StateError(
        "the embedding or the head has an adapter and cannot grow: extend the vocabulary first, then attach "
        "adapters; or merge them");
  if (embedding.num_embeddings() < growth.old_vocab_size())
    throw StateError("the model has ", embedding.num_embeddings(), " rows for a tokenizer of ",
                     growth.old_vocab_size(), " pieces: they do not belong together");
}

/// Old pieces of each new one, and their bytes of its text.
PieceTable piece_table(const Growth& growth) {
  PieceTable table;
  std::vector<float> bytes;
  for (const NewPiece& piece : growth.pieces) {
    bytes.clear();
    for (const text::TokenId id : piece.source) bytes.push_back(growth.bytes(id));
    table.add(piece.source, bytes);
  }
  return table;
}

/// `old` on the CPU, with `rows` rows; itself where it has as many.
at::Tensor grown(const at::Tensor& old, std::int64_t rows) {
  at::Tensor source = old.detach().cpu().contiguous();
  if (source.size(0) == rows) return source;
  at::Tensor result = at::empty({rows, source.size(1)}, source.options());
  const auto row_bytes = static_cast<std::size_t>(source.size(1)) * source.element_size();
  auto* to = static_cast<char*>(result.mutable_data_ptr());
  const auto* from = static_cast<const char*>(source.const_data_ptr());
  at::parallel_for(0, source.size(0), 64, [&](std::int64_t begin, std::int64_t end) {
    std::memcpy(to + static_cast<std::size_t>(begin) * row_bytes,
                from + static_cast<std::size_t>(begin) * row_bytes,
                static_cast<std::size_t>(end - begin) * row_bytes);
  });
  return result;
}

/// Fills both matrices of the new pieces; `head` is undefined when tied or not there.
void fill_both(at::Tensor& input, at::Tensor& head, const Growth& growth, const InitialiserOptions& options,
               std::uint64_t seed) {
  const InitialiserRules rules = rules_of(options);
  FillRequest request;
  request.old_rows = growth.old_vocab_size();
  request.first_row = growth.old_vocab_size();
  request.seed = seed;
  if (!options.copy_of.empty()) {
    const auto id = growth.base.piece_to_id(options.copy_of);
    if (!id) throw ConfigError("copy_of: '", options.copy_of, "' is not a piece of the old tokenizer");
    request.copy_row = *id;
  }
  const PieceTable pieces = piece_table(growth);
  request.rule = rules.input;
  request.purpose = "input";
  fill_rows(input, pieces, options, request);
  if (!head.defined()) return;
  if (rules.head == "tie_to_input") {
    head.narrow(0, request.first_row, pieces.size()).copy_(input.narrow(0, request.first_row, pieces.size()));
    return;
  }
  request.rule = rules.head;
  request.purpose = "head";
  fill_rows(head, pieces, options, request);
}

void fill_padding(at::Tensor& matrix, std::int64_t old_rows, std::int64_t begin) {
  if (begin < matrix.size(0))
    matrix.narrow(0, begin, matrix.size(0) - begin).copy_(mean_row(matrix, old_rows));
}

/// The grown matrices in place of the old ones, on their device.
void install(models::LanguageModel* model, Tables& tables, const at::Tensor& input, const at::Tensor& head,
             const at::Device& device) {
  const bool input_trained = tables.embedding.weight.requires_grad();
  const std::int64_t rows = input.size(0);
  tables.embedding.weight = input.to(device);
  tables.embedding.weight.set_requires_grad(input_trained);
  tables.vocab_size = rows;
  if (model == nullptr) return;
  nn::Linear& output = model->output_head();  // A tied head takes the new embedding here.
  if (head.defined()) {
    const bool head_trained = output.weight.requires_grad();
    output.weight = head.to(device);
    output.weight.set_requires_grad(head_trained);
  }
  output.out_features = rows;
}

void grow_bias(nn::Linear& head, std::int64_t old_pieces, std::int64_t rows) {
  if (!head.bias.defined() || head.bias.size(0) >= rows) return;
  const bool trained = head.bias.requires_grad();
  const at::Tensor old = head.bias.detach();
  at::Tensor bias = at::empty({rows}, old.options());
  bias.narrow(0, 0, old.size(0)).copy_(old);
  bias.narrow(0, old.size(0), rows - old.size(0)).fill_(old.narrow(0, 0, old_pieces).mean());
  head.bias = bias;
  head.bias.set_requires_grad(trained);
}

/// Grows the tables to `rows` rows. `model`: the one with a head, or null.
ApplyReport extend_to(models::LanguageModel* model, Tables tables, const Growth& growth,
                      const InitialiserOptions& options, std::uint64_t seed, std::int64_t rows) {
  const at::NoGradGuard no_grad;
  static_cast<void>(rules_of(options));
  const at::Tensor old_input = tables.embedding.weight;
  const std::int64_t old_pieces = growth.old_vocab_size();
  const std::int64_t old_rows = old_input.size(0);
  at::Tensor input = grown(old_input, rows);
  at::Tensor head = tables.own_head() ? grown(tables.head->weight, rows) : at::Tensor();
  fill_both(input, head, growth, options, seed);
  const std::int64_t padding = std::max(old_rows, growth.vocab_size);
  fill_padding(input, old_pieces, padding);
  if (head.defined()) fill_padding(head, old_pieces, padding);
  if (tables.head != nullptr) grow_bias(*tables.head, old_pieces, rows);
  ApplyReport report;
  report.old_rows = old_rows;
  report.rows = rows;
  report.added = static_cast<std::int64_t>(growth.pieces.size());
  report.reused_padding = std::clamp<std::int64_t>(old_rows - old_pieces, 0, report.added);
  report.old_norm = mean_norm(input, 0, old_pieces);
  report.new_norm = mean_norm(input, old_pieces, growth.vocab_size);
  install(model, tables, input, head, old_input.device());
  return report;
}

ApplyReport extend(models::LanguageModel* model, const Tables& tables, const Growth& growth,
                   const InitialiserOptions& options, std::uint64_t seed, std::int64_t pad_to_multiple_of) {
  check_extensible(tables, growth);
  if (pad_to_multiple_of < 1) throw ConfigError("pad_to_multiple_of is ", pad_to_multiple_of, ", below 1");
  const std::int64_t wanted =
      (growth.vocab_size + pad_to_multiple_of - 1) / pad_to_multiple_of * pad_to_multiple_of;
  const std::int64_t rows = std::max(tables.embedding.num_embeddings(), wanted);
  return extend_to(model, tables, growth, options, seed, rows);
}

ApplyReport initialise_again(models::LanguageModel* model, const Tables& tables, const Growth& growth,
                             const InitialiserOptions& options, std::uint64_t seed) {
  check_extensible(tables, growth);
  const std::int64_t rows = tables.embedding.num_embeddings();
  if (rows < growth.vocab_size)
    throw StateError("the model has ", rows, " rows, fewer than the ", growth.vocab_size,
                     " pieces of the extended tokenizer: apply the extension first");
  return extend_to(model, tables, growth, options, seed, rows);
}

}  // namespace

ApplyReport apply_extension(models::LanguageModel& model, const ExtensionPlan& plan,
                            const InitialiserOptions& options, std::uint64_t seed,
                            std::int64_t pad_to_multiple_of) {
  return extend(&model, tables_of(model), growth_of(plan), options, seed, pad_to_multiple_of);
}

ApplyReport apply_extension(models::EncoderModel& model, const WordPiecePlan& plan,
                            const InitialiserOptions& options, std::uint64_t seed,
                            std::int64_t pad_to_multiple_of) {
  return extend(nullptr, tables_of(model), growth_of(plan), options, seed, pad_to_multiple_of);
}

ApplyReport initialise_new_rows(models::LanguageModel& model, const ExtensionPlan& plan,
                                const InitialiserOptions& options, std::uint64_t seed) {
  return initialise_again(&model, tables_of(model), growth_of(plan), options, seed);
}

ApplyReport initialise_new_rows(models::EncoderModel& model, const WordPiecePlan& plan,
                                const InitialiserOptions& options, std::uint64_t seed) {
  return initialise_again(nullptr, tables_of(model), growth_of(plan), options, seed);
}

}  // namespace bitrain::vocab
