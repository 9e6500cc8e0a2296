#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/eval/encode.h>
#include <bitrain/models/document_encoder.h>

namespace bitrain::eval {

/// A document as its sentences.
using Sentences = std::vector<std::string>;

/// The vectors of documents by a document encoder, [n, D] float32 on the CPU, in their order, without
/// gradients; documents are cut to the encoder's max_sentences, sentences to options.max_length. Throws
/// DataError naming a document without sentences; else as encode_texts.
[[nodiscard]] at::Tensor encode_documents(models::DocumentEncoder& model, const text::Tokenizer& tokenizer,
                                          const std::vector<Sentences>& documents,
                                          const EncodeOptions& options = {});

/// Segment averaging: the mean of the vectors of a document's first `max_sentences` sentences, each of
/// length 1. Throws the same.
[[nodiscard]] at::Tensor average_sentences(models::SentenceEncoder& model, const text::Tokenizer& tokenizer,
                                           const std::vector<Sentences>& documents,
                                           std::int64_t max_sentences, const EncodeOptions& options = {});

}  // namespace bitrain::eval
