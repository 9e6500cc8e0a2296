#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/hub/model_dir.h>
#include <bitrain/io/file.h>
#include <bitrain/text/sentencepiece_tokenizer.h>
#include <bitrain/text/spm_trainer.h>
#include <bitrain/text/tokenizer.h>
#include <bitrain/vocab/apply.h>
#include <bitrain/vocab/fertility.h>
#include <bitrain/vocab/wordpiece_plan.h>

#include "bind.h"
#include "options.h"

namespace bitrain::python {
namespace {

using text::Tokenizer;

/// A text as AutoTokenizer encodes it: spellings of special tokens are those tokens, unless `split_special`.
text::Encoding encoded(const Tokenizer& tokenizer, const std::string& text, bool split_special) {
  if (split_special) return tokenizer.encode_with_offsets(text);
  return tokenizer.encode_markup(text, {{0, static_cast<std::int32_t>(text.size())}});
}

std::vector<std::vector<text::TokenId>> encode_batch(const Tokenizer& tokenizer,
                                                     const std::vector<std::string>& texts,
                                                     bool split_special_tokens) {
  py::gil_scoped_release release;
  std::vector<std::vector<text::TokenId>> ids;
  ids.reserve(texts.size());
  for (const std::string& text : texts) ids.push_back(encoded(tokenizer, text, split_special_tokens).ids);
  return ids;
}

py::dict fertility_dict(const Tokenizer& tokenizer, const std::vector<std::string>& lines) {
  const vocab::Fertility fertility = vocab::measure_fertility(tokenizer, text::lines_of(lines));
  py::dict figures;
  figures["tokens"] = fertility.tokens;
  figures["words"] = fertility.words;
  figures["bytes"] = fertility.bytes;
  figures["tokens_per_word"] = fertility.tokens_per_word();
  figures["bytes_per_token"] = fertility.bytes_per_token();
  figures["continued_words"] = fertility.continued_share();
  figures["byte_pieces"] = fertility.byte_share();
  return figures;
}

/// Extends the WordPiece tokenizer of a folder; the model beside it, if any, is not touched.
py::dict extend_wordpiece(const std::filesystem::path& base, const std::vector<std::string>& lines,
                          const std::filesystem::path& out, const py::kwargs& keywords) {
  vocab::ExtensionOptions options;
  read_options(keywords, options, "extend_wordpiece");
  vocab::WordPiecePlan plan;
  {
    py::gil_scoped_release release;
    plan = vocab::plan_wordpiece_extension(text::open_tokenizer(base), text::lines_of(lines), options);
    io::make_directories(out);
    plan.tokenizer->save(out);
  }
  py::dict report;
  report["old_vocab_size"] = plan.old_vocab_size();
  report["vocab_size"] = plan.vocab_size();
  py::list pieces;
  for (const vocab::NewPiece& piece : plan.pieces)
    pieces.append(py::make_tuple(piece.text, piece.id, piece.source, piece.uses));
  report["pieces"] = pieces;
  report["dropped"] = plan.dropped.size();
  return report;
}

py::dict extend_vocabulary(const std::filesystem::path& base, const std::vector<std::string>& lines,
                           const std::filesystem::path& out, const std::string& initialiser,
                           std::uint64_t seed, const py::kwargs& keywords) {
  vocab::ExtensionOptions options;
  read_options(keywords, options, "extend_vocabulary");
  vocab::InitialiserOptions rule;
  rule.preset = initialiser;
  (void)vocab::rules_of(rule);
  py::dict report;
  std::error_code ignored;
  // A folder with a tokenizer alone can be extended too.
  const bool has_model = std::filesystem::exists(base / "config.json", ignored);
  hub::OpenedModel opened;
  vocab::ExtensionPlan plan;
  vocab::ApplyReport applied;
  {
    py::gil_scoped_release release;
    if (has_model)
      opened = hub::open_model(base);
    else
      opened.tokenizer = text::open_tokenizer(base);
    plan = vocab::plan_extension(opened.tokenizer, text::lines_of(lines), options);
    if (has_model) {
      applied = vocab::apply_extension(*opened.model, plan, rule, seed);
      hub::save_model(out, *opened.model, plan.tokenizer.get());
    } else {
      io::make_directories(out);
      plan.tokenizer->save(out);
    }
  }
  report["old_vocab_size"] = plan.old_vocab_size();
  report["vocab_size"] = plan.vocab_size();
  report["added"] = plan.pieces.size();
  report["dropped"] = plan.dropped_counts();
  if (has_model) report["rows"] = applied.rows;
  return report;
}

}  // namespace

void bind_text(py::module_& module) {
  py::class_<Tokenizer, std::shared_ptr<Tokenizer>>(module, "Tokenizer", "Text to ids and back.")
      .def_static(
          "open",
          [](const std::filesystem::path& directory) { return held(text::open_tokenizer(directory)); },
          py::arg("directory"), "Opens the tokenizer of a Hugging Face folder.")
      .def(
          "encode",
          [](const Tokenizer& tokenizer, const std::string& text, bool add_special_tokens,
             bool split_special_tokens) {
            std::vector<text::TokenId> ids = encoded(tokenizer, text, split_special_tokens).ids;
            return add_special_tokens ? tokenizer.input_template().frame(ids) : ids;
          },
          py::arg("text"), py::arg("add_special_tokens") = false, py::arg("split_special_tokens") = false,
          "Ids of a text; with the tokens that the model's input begins and ends with, if asked for. Special "
          "tokens that the text spells are those tokens, or plain text with split_special_tokens.")
      .def(
          "encode_pair",
          [](const Tokenizer& tokenizer, const std::string& first, const std::string& second,
             bool split_special_tokens) {
            const text::Encoding framed =
                tokenizer.input_template().frame(encoded(tokenizer, first, split_special_tokens),
                                                 encoded(tokenizer, second, split_special_tokens));
            return std::make_pair(framed.ids, framed.type_ids);
          },
          py::arg("first"), py::arg("second"), py::arg("split_special_tokens") = false,
          "(ids, type ids) of two texts with the special tokens around them.")
      .def("encode_batch", &encode_batch, py::arg("texts"), py::arg("split_special_tokens") = false,
           "Ids of many texts.")
      .def(
          "encode_with_offsets",
          [](const Tokenizer& tokenizer, const std::string& text, bool split_special_tokens) {
            const text::Encoding encoding = encoded(tokenizer, text, split_special_tokens);
            std::vector<std::pair<std::int32_t, std::int32_t>> offsets;
            for (const text::Offset& offset : encoding.offsets)
              offsets.emplace_back(offset.begin, offset.end);
            return std::make_pair(encoding.ids, offsets);
          },
          py::arg("text"), py::arg("split_special_tokens") = false,
          "(ids, [(begin, end)]): the bytes of the UTF-8 text behind each id.")
      .def("decode", &Tokenizer::decode, py::arg("ids"), "Text of ids.")
      .def("id_to_piece", &Tokenizer::id_to_piece, py::arg("id"))
      .def("piece_to_id", &Tokenizer::piece_to_id, py::arg("piece"))
      .def(
          "save",
          [](const Tokenizer& tokenizer, const std::filesystem::path& directory) {
            io::make_directories(directory);
            tokenizer.save(directory);
          },
          py::arg("directory"), "Writes files that AutoTokenizer opens.")
      .def("fertility", &fertility_dict, py::arg("lines"), "How finely the tokenizer cuts a text.")
      .def_property_readonly("vocab_size", &Tokenizer::vocab_size);
  module.def(
      "train_tokenizer",
      [](const std::vector<std::string>& lines, const std::filesystem::path& directory,
         const py::kwargs& keywords) {
        text::TrainOptions options;
        read_options(keywords, options, "train_tokenizer");
        py::gil_scoped_release release;
        const auto tokenizer =
            text::make_sentencepiece_tokenizer(text::train_sentencepiece(text::lines_of(lines), options));
        io::make_directories(directory);
        tokenizer->save(directory);
        return held(tokenizer);
      },
      py::arg("lines"), py::arg("directory"),
      "Learns a SentencePiece tokenizer; keywords as in a recipe's tokenizer stage (vocab_size, model_type, "
      "...).");
  module.def("extend_vocabulary", &extend_vocabulary, py::arg("base"), py::arg("lines"), py::arg("out"),
             py::arg("initialiser") = "zip_tie", py::arg("seed") = 42,
             "Adds pieces learned from lines to a model folder (or a tokenizer's); keywords as in a recipe's "
             "extend_vocab stage (pieces, method, ...). Returns what was done.");
  module.def(
      "extend_wordpiece", &extend_wordpiece, py::arg("base"), py::arg("lines"), py::arg("out"),
      "Adds pieces learned from lines to a folder's WordPiece tokenizer and writes it to out; keywords as "
      "in a recipe's extend_vocab stage. Returns the new pieces as (text, id, old ids, uses).");
}

}  // namespace bitrain::python
