#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/data/packing.h>
#include <bitrain/dist/communicator.h>
#include <bitrain/fields/rule.h>
#include <bitrain/losses/info_nce.h>
#include <bitrain/losses/matryoshka.h>
#include <bitrain/models/sentence_encoder.h>
#include <bitrain/objectives/embedding_loss.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::objectives {

struct ContrastiveOptions {
  std::string loss = "info_nce";
  losses::InfoNceOptions info_nce;
  losses::MatryoshkaOptions matryoshka;
  bool symmetric = true;
  double contrast = 1.0;
  double distill_text = 0.0;
  double distill_pair = 0.0;
  std::int64_t max_length = 128;
  std::string text_prompt;
  std::string pair_prompt;
};

template <class Visitor>
void visit_fields(Visitor& v, ContrastiveOptions& o) {
  v.field("loss", o.loss, one_of({"info_nce", "nt_xent", "supcon"}),
          "What a text is told from: info_nce: the other side of all other pairs; nt_xent: both sides "
          "(BabelBERT); supcon: the same, but pairs that share a text, directly or through others, belong "
          "together (set distinct_texts of the loader to false).");
  v.field("info_nce", o.info_nce, any(), "How a text is told from the others.");
  v.field("matryoshka", o.matryoshka, any(), "Embeddings that may be cut short (Kusupati et al. 2022).");
  v.field(
      "symmetric", o.symmetric, any(),
      "info_nce: also find the text of a translation among all texts; otherwise only the translation of a "
      "text.");
  v.field("contrast", o.contrast, at_least(0), "Weight of the contrastive loss; 0: only distillation.");
  v.field(
      "distill_text", o.distill_text, at_least(0),
      "Weight of the squared distance between a text's embedding and that of the untrained model: keeps what "
      "the model knows of its language.");
  v.field("distill_pair", o.distill_pair, at_least(0),
          "Weight of the squared distance between a translation's embedding and the untrained model's of the "
          "text (Reimers and Gurevych 2020).");
  v.field("max_length", o.max_length, at_least(3), "Tokens a text is cut to, special tokens included.");
  v.field("text_prompt", o.text_prompt, any(), "Put before every text, for models that want one.");
  v.field("pair_prompt", o.pair_prompt, any(), "Put before every translation or passage.");
}

/// Trains a sentence encoder on pairs (Example::text, Example::pair_text, then Example::negatives): each text
/// is to be nearer to its pair than to those of all other examples of the step and to all hard negatives.
/// Beside it, a frozen teacher may be imitated.
class Contrastive {
 public:
  /// `languages`: what Batch::language_ids mean (data::languages_of). `teacher_tokenizer`: of the model to
  /// distill from; null when no distillation is asked for. Throws ConfigError when neither contrast nor
  /// distillation is asked for, distillation without a teacher, or widths that are none.
  Contrastive(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
              ContrastiveOptions options = {},
              std::shared_ptr<const text::Tokenizer> teacher_tokenizer = nullptr);

  /// The texts of an example as parts: text, pair, negatives (without those equal to another of its texts),
  /// and last the text for the teacher. Empty when a side has no tokens or both are the same text: there is
  /// nothing to learn. Throws DataError, naming source and row, for an example that is not a pair.
  [[nodiscard]] data::TokenSequence encode(const data::Example& example) const;

  /// The loss of a step, for train::TrainParts. Its sum counts a text and, but for info_nce without
  /// `symmetric`, a pair as halves; its weight is the number of pairs; parts are "contrast" and "distill".
  /// The models must outlive it; `teacher` may be null without distillation. Candidates come from all ranks
  /// of `group`, as losses::grouped_info_nce and grouped_nt_xent have them; the sum is over this rank's
  /// pairs. Throws DataError for a step of one pair;
  /// ConfigError for matryoshka's widths that `model` does not have.
  [[nodiscard]] EmbeddingLoss loss(
      models::SentenceEncoder& model, models::SentenceEncoder* teacher,
      const std::shared_ptr<dist::Communicator>& group = std::make_shared<dist::Communicator>()) const;

 private:
  [[nodiscard]] bool distils() const { return options_.distill_text > 0 || options_.distill_pair > 0; }
  [[nodiscard]] LossSum loss_of(const at::Tensor& embedded, const at::Tensor& taught,
                                const std::vector<Batch>& micro_batches, dist::Communicator& group) const;
  [[nodiscard]] at::Tensor contrast_of(const std::vector<at::Tensor>& sides, const at::Tensor& labels,
                                       dist::Communicator& group) const;

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::shared_ptr<const text::Tokenizer> teacher_tokenizer_;
  std::vector<std::string> languages_;
  ContrastiveOptions options_;
};

/// The segments of `batch` that `wanted` names, rising, as a batch of their own: every one keeps its tokens,
/// positions and language.
[[nodiscard]] Batch select_segments(const Batch& batch, const std::vector<std::int64_t>& wanted);

}  // namespace bitrain::objectives
