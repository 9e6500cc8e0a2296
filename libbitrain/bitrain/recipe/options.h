#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/adapters/lora.h>
#include <bitrain/adapters/merge.h>
#include <bitrain/data/loader.h>
#include <bitrain/data/transform.h>
#include <bitrain/eval/bm25.h>
#include <bitrain/eval/completion.h>
#include <bitrain/eval/late_interaction.h>
#include <bitrain/eval/perplexity.h>
#include <bitrain/fields/rule.h>
#include <bitrain/models/generation.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/objectives/causal_lm.h>
#include <bitrain/objectives/contrastive.h>
#include <bitrain/objectives/masked_lm.h>
#include <bitrain/objectives/sft.h>
#include <bitrain/recipe/conversation_files.h>
#include <bitrain/recipe/document_options.h>
#include <bitrain/recipe/pair_files.h>
#include <bitrain/recipe/reranking_options.h>
#include <bitrain/recipe/retrieval_options.h>
#include <bitrain/text/spm_trainer.h>
#include <bitrain/train/options.h>
#include <bitrain/vocab/initialisers.h>
#include <bitrain/vocab/plan.h>

/// What a recipe says, as plain structs. The reference page (docs/recipe.md) is generated from these.
namespace bitrain::recipe {

/// One side of the pair: where its text is.
struct TextOptions {
  std::string path;
  std::string format = "auto";
  std::int64_t column = 1;
  std::string text_field;
  std::string language;
};
template <class Visitor>
void visit_fields(Visitor& v, TextOptions& o) {
  v.field("path", o.path, names_file(),
          "Text, TSV or JSONL file, also as .gz or .zst; from the current folder, else from the "
          "recipe's or one above it. Empty in both: no stage reads lines.");
  v.field("format", o.format, one_of({"auto", "text", "tsv", "jsonl"}),
          "What a row is; auto goes by the name's ending, and where that says nothing reads JSON as JSON.");
  v.field("text_field", o.text_field, any(), "JSONL: key of the text; empty: text.");
  v.field("column", o.column, at_least(1), "TSV: column of the text, from 1.");
  v.field("language", o.language, not_empty(),
          "Code of the language, for example es; all stages but sft on files alone need it.");
}

/// Rows that no stage trains on.
struct HeldOutOptions {
  std::int64_t every = 0;
  std::int64_t last = 0;
  std::int64_t max_documents = 0;
};
template <class Visitor>
void visit_fields(Visitor& v, HeldOutOptions& o) {
  v.field("every", o.every, at_least(0),
          "Keep every k-th row for evaluation, of source and target, and of an sft stage's files.");
  v.field("last", o.last, at_least(0), "Keep the last N rows for evaluation, likewise.");
  v.field("max_documents", o.max_documents, at_least(0),
          "Evaluate on no more than this many of each language, in an sft stage of each of its sets too; 0: "
          "all.");
}

/// Documents for language modelling, from `source` and `target`.
struct DataOptions {
  std::int64_t lines_per_document = 1;
  data::LoaderOptions loader;
};
template <class Visitor>
void visit_fields(Visitor& v, DataOptions& o) {
  v.field("lines_per_document", o.lines_per_document, at_least(0),
          "Consecutive rows joined into one document; 0: text up to a blank line.");
  v.field("loader", o.loader, any(), "Mixing and packing; the sources are called source and target.");
}

struct QuantizationOptions {
  bool enabled = true;
  std::string type = "nf4";
  std::int64_t block_size = 64;
  bool double_quant = true;
};
template <class Visitor>
void visit_fields(Visitor& v, QuantizationOptions& o) {
  v.field("enabled", o.enabled, any(),
          "Keep the base's linear maps in 4 bits (QLoRA); otherwise plain LoRA.");
  v.field("type", o.type, one_of({"nf4", "fp4"}), "Code book.");
  v.field("block_size", o.block_size, in_range(32, 4096), "Weights that share a scale; a power of two.");
  v.field("double_quant", o.double_quant, any(), "Quantise the scales too.");
}

/// recipe: tokenizer
struct TokenizerStage {
  std::string text = "source";
  text::TrainOptions tokenizer;
};
template <class Visitor>
void visit_fields(Visitor& v, TokenizerStage& o) {
  v.field("text", o.text, one_of({"source", "target"}), "Whose text it is learned on.");
  v.field("tokenizer", o.tokenizer, any(), "How it is learned.");
}

/// recipe: pretrain
struct PretrainStage {
  models::LlamaConfig model;
  DataOptions data;
  objectives::CausalLmOptions objective;
  train::TrainOptions train;
};
template <class Visitor>
void visit_fields(Visitor& v, PretrainStage& o) {
  v.field("model", o.model, any(), "Shape of the model; vocab_size and special ids come from the tokenizer.");
  v.field("data", o.data, any(), "Text, mixture, packing.");
  v.field("objective", o.objective, any(), "Marks around documents.");
  v.field("train", o.train, any(), "Steps, rates, checkpoints.");
}

/// recipe: evaluate
struct EvaluateStage {
  eval::PerplexityOptions perplexity;
};
template <class Visitor>
void visit_fields(Visitor& v, EvaluateStage& o) {
  v.field("perplexity", o.perplexity, any(), "How the held-out text is scored.");
}

/// recipe: extend_vocab
struct ExtendStage {
  vocab::ExtensionOptions vocab;
  vocab::InitialiserOptions initialiser;
  bool compare_initialisers = true;
  std::int64_t pad_to_multiple_of = 1;
};
template <class Visitor>
void visit_fields(Visitor& v, ExtendStage& o) {
  v.field("vocab", o.vocab, any(), "Which pieces are added.");
  v.field("initialiser", o.initialiser, any(), "How their rows begin.");
  v.field("compare_initialisers", o.compare_initialisers, any(),
          "Score the held-out text under every preset before going on.");
  v.field("pad_to_multiple_of", o.pad_to_multiple_of, at_least(1),
          "Round the model's rows up to a multiple.");
}

/// recipe: cpt
struct CptStage {
  QuantizationOptions quantize;
  adapters::LoraOptions lora;
  std::vector<std::string> freeze;
  DataOptions data;
  objectives::CausalLmOptions objective;
  train::TrainOptions train;
};
template <class Visitor>
void visit_fields(Visitor& v, CptStage& o) {
  v.field("quantize", o.quantize, any(), "4-bit base.");
  v.field("lora", o.lora, any(),
          "Adapters. Left out: all weights are trained, and a model folder is written; set quantize.enabled "
          "to false.");
  v.field("freeze", o.freeze, any(),
          "Without adapters: weights and modules that stay as they are, by end of path or pattern.");
  v.field("data", o.data, any(), "Text, mixture, packing.");
  v.field("objective", o.objective, any(), "Marks around documents.");
  v.field("train", o.train, any(), "Steps, rates, checkpoints.");
}

/// One instruction set made from the pair of files.
struct InstructionOptions {
  std::string name;
  std::string rows = "pairs";
  std::vector<data::TransformOptions> transforms;
};
template <class Visitor>
void visit_fields(Visitor& v, InstructionOptions& o) {
  v.field("name", o.name, required(not_empty()), "Name in the mixture.");
  v.field("rows", o.rows, one_of({"pairs", "source", "target"}),
          "What a row is: both sides of a line (one TSV file), or one side.");
  v.field("transforms", o.transforms, required(not_empty()), "From rows to conversations.");
}

/// recipe: sft
struct SftStage {
  QuantizationOptions quantize;
  adapters::LoraOptions lora;
  std::vector<std::string> freeze;
  std::vector<InstructionOptions> instructions;
  std::vector<ConversationFileOptions> files;
  data::LoaderOptions loader;
  objectives::SftOptions objective;
  train::TrainOptions train;
  std::int64_t accuracy_cases = 200;
};
template <class Visitor>
void visit_fields(Visitor& v, SftStage& o) {
  v.field("quantize", o.quantize, any(), "4-bit base.");
  v.field("lora", o.lora, any(),
          "Adapters. Left out: all weights are trained, and a model folder is written; set quantize.enabled "
          "to false.");
  v.field("freeze", o.freeze, any(),
          "Without adapters: weights and modules that stay as they are, by end of path or pattern.");
  v.field("instructions", o.instructions, any(),
          "Conversations built from source and target; without them the stage reads files alone.");
  v.field("files", o.files, any(), "Files of conversations; each a path, or a map where more is to be said.");
  v.field("loader", o.loader, any(), "Mixing and packing.");
  v.field("objective", o.objective, any(), "How conversations are written.");
  v.field("train", o.train, any(), "Steps, rates, checkpoints.");
  v.field("accuracy_cases", o.accuracy_cases, at_least(0),
          "Held-out conversations of each language whose reply's next word is asked for, before and after.");
}

/// recipe: evaluate_encoder
struct EvaluateEncoderStage {
  RetrievalOptions retrieval;
  std::vector<std::string> calibrate;
  std::int64_t calibration_lines = 2000;
};
template <class Visitor>
void visit_fields(Visitor& v, EvaluateEncoderStage& o) {
  v.field("retrieval", o.retrieval, any(), "How held-out pairs are scored.");
  v.field("calibrate", o.calibrate, one_of({"shift_scale", "rotation", "procrustes"}),
          "Score them also with vectors calibrated on training lines: mean 0 and variance 1 in each "
          "language; and the "
          "target's rotated towards the source's, without pairs; or by pairs of lines (Procrustes).");
  v.field("calibration_lines", o.calibration_lines, at_least(2), "Training lines of each language for that.");
}

/// A retrieval set in BEIR's layout.
struct CollectionOptions {
  std::string path;
  std::string name;
  std::string split = "test";
  std::string query_language;
  std::string language;
  std::string generated_queries;
};
template <class Visitor>
void visit_fields(Visitor& v, CollectionOptions& o) {
  v.field("path", o.path, names_folder(required(not_empty())),
          "Folder with corpus.jsonl, queries.jsonl and qrels/<split>.tsv.");
  v.field("name", o.name, any(), "In the report; empty: the folder's name.");
  v.field("split", o.split, not_empty(), "Which judgements.");
  v.field("query_language", o.query_language, any(), "Code of the queries; empty: the source's.");
  v.field("language", o.language, any(), "Code of the documents; empty: the target's.");
  v.field("generated_queries", o.generated_queries, names_file(),
          "JSONL rows {document, query}: queries made for documents, which then carry them (xQG4xDR).");
}

/// recipe: evaluate_retrieval
struct EvaluateRetrievalStage {
  std::vector<CollectionOptions> collections;
  bool encoder = true;
  bool bm25 = true;
  eval::Bm25Options bm25_options;
  std::string similarity = "cosine";
  std::int64_t depth = 100;
  std::int64_t max_length = 256;
  std::int64_t truncate_dim = 0;
  std::string query_prompt;
  std::string document_prompt;
  std::vector<double> fusion_weights = {0.01};
  eval::LateIndexOptions index;
  std::string rerank;
  std::int64_t rerank_depth = 100;
};
template <class Visitor>
void visit_fields(Visitor& v, EvaluateRetrievalStage& o) {
  v.field("collections", o.collections, required(), "Retrieval sets in BEIR's layout.");
  v.field("encoder", o.encoder, any(),
          "Search by the embeddings of the model it reads from; by late interaction where that is its kind.");
  v.field("bm25", o.bm25, any(), "Search by words, for comparison.");
  v.field("bm25_options", o.bm25_options, any(), "How words count.");
  v.field("similarity", o.similarity, one_of({"cosine", "dot"}), "How two embeddings are compared.");
  v.field("depth", o.depth, at_least(1), "Documents found for each query.");
  v.field("max_length", o.max_length, at_least(3), "Tokens a text is cut to, special tokens included.");
  v.field("truncate_dim", o.truncate_dim, at_least(0),
          "Leading features of an embedding that are read, as of a model that was trained with matryoshka; "
          "0: all.");
  v.field("query_prompt", o.query_prompt, any(), "Put before every query.");
  v.field("document_prompt", o.document_prompt, any(), "Put before every document.");
  v.field(
      "fusion_weights", o.fusion_weights, in_range(0, 1),
      "Where there are generated queries, documents become (1 - a) document + a (sum of its queries), for "
      "each a of these; 0 changes nothing.");
  v.field("index", o.index, any(), "Of late interaction, which takes lengths and prompts from its folder.");
  v.field("rerank", o.rerank, names_stage(),
          "An earlier stage cross_encoder, which orders anew what the encoder found, or BM25 without it. "
          "Empty: none.");
  v.field("rerank_depth", o.rerank_depth, at_least(1), "Documents of each query that it reads.");
}

/// recipe: extend_encoder
struct ExtendEncoderStage {
  vocab::ExtensionOptions vocab;
  vocab::InitialiserOptions initialiser;
  std::int64_t pad_to_multiple_of = 1;
  RetrievalOptions retrieval;
};
template <class Visitor>
void visit_fields(Visitor& v, ExtendEncoderStage& o) {
  v.field("vocab", o.vocab, any(), "Which pieces are added.");
  v.field("initialiser", o.initialiser, any(), "How their rows begin; there is no head.");
  v.field("pad_to_multiple_of", o.pad_to_multiple_of, at_least(1),
          "Round the model's rows up to a multiple.");
  v.field("retrieval", o.retrieval, any(), "How held-out pairs are scored.");
}

/// recipe: contrastive
struct ContrastiveStage {
  ContrastiveStage() {
    loader.packing = "whole";
    loader.rows_per_step = 256;
    loader.sequence_length = 64;
    loader.distinct_texts = true;
    loader.mixture.unit = "samples";
    train.best_metric = "error_at_1";
  }
  std::string teacher;
  bool pairs = true;
  std::vector<PairFileOptions> files;
  objectives::ContrastiveOptions objective;
  std::int64_t group_ranks = 0;
  data::LoaderOptions loader;
  train::TrainOptions train;
  adapters::LoraOptions lora;
  std::vector<std::string> freeze;
  double dropout = -1;
  bool pool_special_tokens = true;
  RetrievalOptions retrieval;
};
template <class Visitor>
void visit_fields(Visitor& v, ContrastiveStage& o) {
  v.field("teacher", o.teacher, names_stage(),
          "What distillation imitates: an earlier stage, or base. Empty: none.");
  v.field("pairs", o.pairs, any(),
          "Train on the lines of source and target side by side; in mixtures: pairs.");
  v.field("files", o.files, any(),
          "Train on these pairs, with hard negatives; in mixtures by the file's name.");
  v.field("objective", o.objective, any(), "Losses.");
  v.field("group_ranks", o.group_ranks, at_least(0),
          "Of several processes: how many give each other negatives (M2-Encoder); must divide them. 0: all, "
          "which is the loss of one process; fewer move fewer embeddings.");
  v.field(
      "loader", o.loader, any(),
      "Batches: rows_per_step pairs give each other negatives, micro_batch_rows of them are in memory at a "
      "time and change no result (GradCache).");
  v.field("train", o.train, any(), "Steps, rates, checkpoints.");
  v.field(
      "lora", o.lora, any(),
      "Train adapters and leave the encoder as it is, where target_modules or modules_to_save name any "
      "(query, key, value, ...). They are merged into the model that is written; adapter/ in its folder has "
      "them by themselves, for PEFT.");
  v.field("freeze", o.freeze, any(),
          "Weights and modules that this stage leaves as they are: names, ends of names, or expressions for "
          "all of one.");
  v.field("dropout", o.dropout, in_range(-1, 1),
          "In place of the model's hidden_dropout_prob; -1: the model's.");
  v.field(
      "pool_special_tokens", o.pool_special_tokens, any(),
      "Whether [CLS] and [SEP] take part in pooling while it trains; the folder it writes cannot say so.");
  v.field("retrieval", o.retrieval, any(), "How held-out pairs are scored.");
}

/// recipe: masked_lm
struct MaskedLmStage {
  MaskedLmStage() {
    loader.packing = "whole";
    loader.rows_per_step = 64;
    loader.sequence_length = 64;
    loader.mixture.unit = "samples";
    objective.max_length = 128;
    train.best_metric = "masked_loss";
  }
  bool texts = true;
  bool pairs = false;
  bool next_sentence = false;
  std::int64_t lines_per_document = 0;
  bool fresh = false;
  objectives::MaskedLmOptions objective;
  data::LoaderOptions loader;
  train::TrainOptions train;
  std::vector<std::string> freeze;
  double dropout = -1;
};
template <class Visitor>
void visit_fields(Visitor& v, MaskedLmStage& o) {
  v.field("texts", o.texts, any(),
          "Train on the lines of source and of target; in mixtures: source, target.");
  v.field("pairs", o.pairs, any(),
          "Train on the lines of both side by side (TLM): a hidden word may be read off its translation; in "
          "mixtures: pairs.");
  v.field("next_sentence", o.next_sentence, any(),
          "Take texts two sentences at a time and learn whether the second follows on the first, as half of "
          "them do; the others are of another document (BERT; a pooler is needed or begins fresh).");
  v.field("lines_per_document", o.lines_per_document, at_least(0),
          "With next_sentence: consecutive rows that make a document; 0: text up to a blank line.");
  v.field("fresh", o.fresh, any(), "Begin from random weights, with the shape and tokenizer it reads.");
  v.field("objective", o.objective, any(), "What is hidden.");
  v.field("loader", o.loader, any(), "Mixing; rows_per_step texts or pairs are a step.");
  v.field("train", o.train, any(), "Steps, rates, checkpoints.");
  v.field("freeze", o.freeze, any(), "Weights and modules that this stage leaves as they are.");
  v.field("dropout", o.dropout, in_range(-1, 1),
          "In place of the model's hidden_dropout_prob; -1: the model's.");
}

/// Held-out texts of each side that a merged model is compared on, and the tokens that each is cut to.
inline constexpr std::int64_t kMergeRows = 8;
inline constexpr std::int64_t kMergeRowTokens = 64;

/// recipe: merge
struct MergeStage {
  adapters::MergeOptions merge;
  double tolerance = 0.05;
  bool evaluate = true;
  std::vector<std::string> prompts;
  models::GenerationOptions generation;
};
template <class Visitor>
void visit_fields(Visitor& v, MergeStage& o) {
  v.field("merge", o.merge, any(), "Form of the merged weights.");
  v.field("tolerance", o.tolerance, at_least(0),
          "Largest mean KL divergence a token, in nats, between the adapted and the merged model.");
  v.field("evaluate", o.evaluate, any(),
          "Score the held-out text with the merged model, where the recipe has source and target.");
  v.field("prompts", o.prompts, any(), "Texts to continue.");
  v.field("generation", o.generation, any(), "How they are continued.");
}

}  // namespace bitrain::recipe
