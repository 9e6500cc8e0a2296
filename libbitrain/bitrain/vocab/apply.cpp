#include <bitrain/vocab/apply.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>
#include <bitrain/models/llama/config.h>

namespace bitrain::vocab {
namespace {

void check_extensible(models::LanguageModel& model, const ExtensionPlan& plan) {
  const nn::Embedding& embedding = model.input_embeddings();
  const nn::Linear& head = model.output_head();
  if (head.is_quantized())
    throw StateError(
        "the output head is quantised and cannot grow: extend the vocabulary first, then quantise");
  if (!embedding.adapters.empty() || !head.adapters.empty() || embedding.trainable_rows ||
      head.trainable_rows)
    throw StateError(
        "the embedding or the head has an adapter and cannot grow: extend the vocabulary first, then attach "
        "adapters; or merge them");
  if (embedding.num_embeddings() < plan.old_vocab_size())
    throw StateError("the model has ", embedding.num_embeddings(), " rows for a tokenizer of ",
                     plan.old_vocab_size(), " pieces: they do not belong together");
}

/// Old pieces of each new one, and their bytes of its text.
PieceTable piece_table(const ExtensionPlan& plan) {
  PieceTable table;
  const std::vector<text::SpmPiece>& old = plan.base->model().pieces;
  std::vector<float> bytes;
  for (const NewPiece& piece : plan.pieces) {
    bytes.clear();
    for (const text::TokenId id : piece.source) {
      const text::SpmPiece& from = old.at(static_cast<std::size_t>(id));
      bytes.push_back(from.type == text::PieceType::kByte ? 1.0F : static_cast<float>(from.text.size()));
    }
    table.add(piece.source, bytes);
  }
  return table;
}

/// `old` on the CPU, with `rows` rows; itself where it has as many.
at::Tensor grown(const at::Tensor& old, std::int64_t rows) {
  const at::Tensor source = old.detach().cpu().contiguous();
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

/// Fills both matrices of the new pieces; `head` is undefined when tied.
void fill_both(at::Tensor& input, at::Tensor& head, const ExtensionPlan& plan,
               const InitialiserOptions& options, std::uint64_t seed) {
  const InitialiserRules rules = rules_of(options);
  FillRequest request;
  request.old_rows = plan.old_vocab_size();
  request.first_row = plan.old_vocab_size();
  request.seed = seed;
  if (!options.copy_of.empty()) {
    const auto id = plan.base->piece_to_id(options.copy_of);
    if (!id) throw ConfigError("copy_of: '", options.copy_of, "' is not a piece of the old tokenizer");
    request.copy_row = *id;
  }
  const PieceTable pieces = piece_table(plan);
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

/// The model's matrices in place of the old ones, on their device.
void install(models::LanguageModel& model, at::Tensor input, const at::Tensor& head,
             const at::Device& device) {
  nn::Embedding& embedding = model.input_embeddings();
  const bool input_trained = embedding.weight.requires_grad();
  const std::int64_t rows = input.size(0);
  embedding.weight = input.to(device);
  embedding.weight.set_requires_grad(input_trained);
  nn::Linear& output = model.output_head();  // A tied head takes the new embedding here.
  if (head.defined()) {
    const bool head_trained = output.weight.requires_grad();
    output.weight = head.to(device);
    output.weight.set_requires_grad(head_trained);
  }
  output.out_features = rows;
  model.config().vocab_size = rows;
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

ApplyReport extend_to(models::LanguageModel& model, const ExtensionPlan& plan,
                      const InitialiserOptions& options, std::uint64_t seed, std::int64_t rows) {
  const at::NoGradGuard no_grad;
  static_cast<void>(rules_of(options));
  const at::Tensor old_input = model.input_embeddings().weight;
  const std::int64_t old_pieces = plan.old_vocab_size();
  const std::int64_t old_rows = old_input.size(0);
  at::Tensor input = grown(old_input, rows);
  at::Tensor head = model.tied() ? at::Tensor() : grown(model.output_head().weight, rows);
  fill_both(input, head, plan, options, seed);
  const std::int64_t padding = std::max(old_rows, plan.vocab_size());
  fill_padding(input, old_pieces, padding);
  if (head.defined()) fill_padding(head, old_pieces, padding);
  grow_bias(model.output_head(), old_pieces, rows);
  ApplyReport report;
  report.old_rows = old_rows;
  report.rows = rows;
  report.added = static_cast<std::int64_t>(plan.pieces.size());
  report.reused_padding = std::clamp<std::int64_t>(old_rows - old_pieces, 0, report.added);
  report.old_norm = mean_norm(input, 0, old_pieces);
  report.new_norm = mean_norm(input, old_pieces, plan.vocab_size());
  install(model, std::move(input), head, old_input.device());
  return report;
}

}  // namespace

ApplyReport apply_extension(models::LanguageModel& model, const ExtensionPlan& plan,
                            const InitialiserOptions& options, std::uint64_t seed,
                            std::int64_t pad_to_multiple_of) {
  check_extensible(model, plan);
  if (pad_to_multiple_of < 1) throw ConfigError("pad_to_multiple_of is ", pad_to_multiple_of, ", below 1");
  const std::int64_t wanted =
      (plan.vocab_size() + pad_to_multiple_of - 1) / pad_to_multiple_of * pad_to_multiple_of;
  const std::int64_t rows = std::max(model.input_embeddings().num_embeddings(), wanted);
  return extend_to(model, plan, options, seed, rows);
}

ApplyReport initialise_new_rows(models::LanguageModel& model, const ExtensionPlan& plan,
                                const InitialiserOptions& options, std::uint64_t seed) {
  check_extensible(model, plan);
  const std::int64_t rows = model.input_embeddings().num_embeddings();
  if (rows < plan.vocab_size())
    throw StateError("the model has ", rows, " rows, fewer than the ", plan.vocab_size(),
                     " pieces of the extended tokenizer: apply the extension first");
  return extend_to(model, plan, options, seed, rows);
}

}  // namespace bitrain::vocab
