#include <string>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/utils/pybind.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/merge.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/batch.h>
#include <bitrain/base/error.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/rerank.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/hub/peft.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/objectives/masked_lm.h>

#include "bind.h"
#include "options.h"

namespace bitrain::python {
namespace {

using Rows = std::vector<std::vector<std::int32_t>>;

/// An encoder with what its sentence-transformers folder said, and the options of its adapter where it has
/// one.
struct Encoder {
  hub::OpenedSentenceEncoder opened;
  adapters::LoraOptions lora = {};

  [[nodiscard]] models::SentenceEncoder& get() const { return *opened.model; }
};

/// `languages`: one a row, for models that choose an adapter by it; or none.
Batch batch_of(models::EncoderModel& model, const Rows& rows, const std::vector<std::string>& languages) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < languages.size(); ++i) ids.push_back(static_cast<std::int32_t>(i));
  model.set_languages(languages);
  return make_batch(rows, rows, ids);
}

std::vector<at::Tensor> rows_of(const at::Tensor& all, const Batch& batch) {
  std::vector<at::Tensor> rows;
  for (std::size_t row = 0; row + 1 < batch.boundaries.size(); ++row)
    rows.push_back(all.narrow(0, batch.boundaries[row], batch.boundaries[row + 1] - batch.boundaries[row]));
  return rows;
}

std::vector<at::Tensor> hidden_of(Encoder& model, const Rows& rows,
                                  const std::vector<std::string>& languages) {
  const Batch batch = batch_of(model.get().encoder(), rows, languages);
  py::gil_scoped_release release;
  const at::NoGradGuard no_grad;
  return rows_of(model.get().encoder().forward(batch, {}).hidden, batch);
}

at::Tensor embeddings_of(Encoder& model, const Rows& rows, const std::vector<std::string>& languages) {
  const Batch batch = batch_of(model.get().encoder(), rows, languages);
  py::gil_scoped_release release;
  const at::NoGradGuard no_grad;
  return model.get().forward(batch, {});
}

/// A batch with the sentence types of its rows, where there are any.
Batch pairs_of(models::EncoderModel& model, const Rows& rows, const Rows& types,
               const std::vector<std::string>& languages) {
  Batch batch = batch_of(model, rows, languages);
  if (!types.empty()) batch.token_type_ids = make_batch(types, types).input_ids;
  if (batch.token_type_ids.defined() && batch.token_type_ids.sizes() != batch.input_ids.sizes())
    throw DataError("token_type_ids must be as long as input_ids");
  return batch;
}

std::vector<at::Tensor> logits_of(hub::OpenedMaskedLm& model, const Rows& rows, const Rows& types,
                                  const std::vector<std::string>& languages) {
  const Batch batch = pairs_of(model.model->encoder(), rows, types, languages);
  py::gil_scoped_release release;
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = model.model->forward(batch, {}).hidden;
  return rows_of(model.model->output_head().forward(model.model->transform(hidden, {}), {}), batch);
}

at::Tensor next_sentence_logits_of(hub::OpenedMaskedLm& model, const Rows& rows, const Rows& types) {
  const Batch batch = pairs_of(model.model->encoder(), rows, types, {});
  py::gil_scoped_release release;
  const at::NoGradGuard no_grad;
  return model.model->next_sentence_logits(model.model->forward(batch, {}).hidden, batch, {});
}

py::tuple loss_of(hub::OpenedMaskedLm& model, const Rows& rows, const Rows& labels, const Rows& types,
                  const std::vector<std::int64_t>& next_sentence, const std::vector<std::string>& languages) {
  objectives::MaskedBatch batch;
  batch.tokens = pairs_of(model.model->encoder(), rows, types, languages);
  batch.tokens.labels = make_batch(rows, labels).labels;
  batch.next_sentence = next_sentence;
  LossSum loss;
  {
    py::gil_scoped_release release;
    loss = objectives::masked_lm_loss(*model.model, batch, {}, {});
  }
  py::dict parts;
  for (const auto& [name, part] : loss.parts) parts[py::str(name)] = py::make_tuple(part.sum, part.weight);
  return py::make_tuple(loss.sum, loss.weight, parts);
}

py::dict tensors_of(nn::Module& module) {
  py::dict named;
  module.visit_tensors([&](const std::string& name, at::Tensor& tensor) { named[py::str(name)] = tensor; });
  return named;
}

void bind_masked_lm(py::module_& module) {
  py::class_<hub::OpenedMaskedLm>(module, "MaskedLanguageModel",
                                  "An encoder with the heads of its pre-training.")
      .def("logits", &logits_of, py::arg("input_ids"), py::arg("token_type_ids") = Rows(),
           py::arg("languages") = std::vector<std::string>(),
           "Logits [n, vocab_size] of each token of rows of token ids; rows are packed and do not see each "
           "other.")
      .def("next_sentence_logits", &next_sentence_logits_of, py::arg("input_ids"),
           py::arg("token_type_ids") = Rows(),
           "Logits [rows, 2]: the second text follows on the first (0), or is another's (1).")
      .def(
          "loss", &loss_of, py::arg("input_ids"), py::arg("labels"), py::arg("token_type_ids") = Rows(),
          py::arg("next_sentence") = std::vector<std::int64_t>(),
          py::arg("languages") = std::vector<std::string>(),
          "(sum, weight, parts) of the cross-entropy over the tokens whose label is not -100; sum can be "
          "differentiated. next_sentence: one label a row; a pair's loss counts once for each of its labels.")
      .def(
          "tensors", [](hub::OpenedMaskedLm& model) { return tensors_of(*model.model); },
          "The dense weights by name, not copied.")
      .def_property_readonly("tokenizer",
                             [](const hub::OpenedMaskedLm& model) { return held(model.tokenizer); })
      .def_property_readonly("has_next_sentence", [](const hub::OpenedMaskedLm& model) {
        return model.model->has_next_sentence();
      });
  module.def(
      "open_masked_lm",
      [](const std::filesystem::path& directory, const py::object& dtype, bool tokenizer) {
        hub::OpenOptions options;
        options.dtype = dtype_named(dtype);
        options.tokenizer = tokenizer;
        py::gil_scoped_release release;
        return hub::open_masked_lm(directory, options);
      },
      py::arg("directory"), py::arg("dtype") = py::none(), py::arg("tokenizer") = false,
      "Opens a folder of a masked language model (bert, distilbert, roberta, xlm-roberta, camembert, xmod).");
  module.def(
      "save_masked_lm",
      [](hub::OpenedMaskedLm& model, const std::filesystem::path& directory, const py::object& dtype) {
        hub::SaveOptions options;
        options.dtype = dtype_named(dtype);
        py::gil_scoped_release release;
        hub::save_masked_lm(directory, *model.model, model.tokenizer.get(), options);
      },
      py::arg("model"), py::arg("directory"), py::arg("dtype") = py::none(),
      "Writes a folder that transformers' AutoModelForMaskedLM or AutoModelForPreTraining opens.");
}

at::Tensor scores_of(hub::OpenedCrossEncoder& model, const Rows& rows, const Rows& types,
                     const std::vector<std::string>& languages) {
  const Batch batch = pairs_of(model.model->encoder(), rows, types, languages);
  py::gil_scoped_release release;
  return model.model->forward(batch, {});
}

at::Tensor predictions_of(hub::OpenedCrossEncoder& model,
                          const std::vector<std::pair<std::string, std::string>>& pairs,
                          std::int64_t max_length, const std::optional<std::string>& prompt,
                          const std::optional<std::string>& prompt_name) {
  if (model.tokenizer == nullptr)
    throw StateError("this cross-encoder was opened without its tokenizer: open it with tokenizer=True");
  std::vector<eval::TextPair> texts;
  texts.reserve(pairs.size());
  for (const auto& [query, document] : pairs) texts.push_back({query, document});
  eval::RerankOptions options;
  options.max_length = max_length > 0 ? max_length : model.settings.max_seq_length;
  options.prompt = prompt ? *prompt : hub::prompt_of(model.settings, prompt_name);
  py::gil_scoped_release release;
  return eval::score_text_pairs(*model.model, *model.tokenizer, texts, options);
}

void bind_cross_encoder(py::module_& module) {
  py::class_<hub::OpenedCrossEncoder>(module, "CrossEncoder",
                                      "An encoder that scores two texts read together.")
      .def("logits", &scores_of, py::arg("input_ids"), py::arg("token_type_ids") = Rows(),
           py::arg("languages") = std::vector<std::string>(),
           "Scores [rows] of rows of token ids, special tokens included; they can be differentiated.")
      .def("predict", &predictions_of, py::arg("pairs"), py::arg("max_length") = 0,
           py::arg("prompt") = py::none(), py::arg("prompt_name") = py::none(),
           "Scores [pairs] of (query, document) texts, float32, before any sigmoid. Pairs are cut to "
           "max_length "
           "tokens, 0: as the folder says; the longer text is cut first. Before the query stands `prompt`, "
           "the prompt called `prompt_name`, or the folder's default.")
      .def(
          "tensors", [](hub::OpenedCrossEncoder& model) { return tensors_of(*model.model); },
          "The dense weights by name, not copied.");
  module.def(
      "open_cross_encoder",
      [](const std::filesystem::path& directory, const py::object& dtype, bool tokenizer) {
        hub::OpenOptions options;
        options.dtype = dtype_named(dtype);
        options.tokenizer = tokenizer;
        py::gil_scoped_release release;
        return hub::open_cross_encoder(directory, options);
      },
      py::arg("directory"), py::arg("dtype") = py::none(), py::arg("tokenizer") = false,
      "Opens a folder of a sequence classifier with one label, as sentence-transformers' CrossEncoder writes "
      "it.");
  module.def(
      "save_cross_encoder",
      [](hub::OpenedCrossEncoder& model, const std::filesystem::path& directory, const py::object& dtype) {
        hub::SaveOptions options;
        options.dtype = dtype_named(dtype);
        py::gil_scoped_release release;
        hub::save_cross_encoder(directory, *model.model, model.tokenizer.get(), options, model.settings);
      },
      py::arg("model"), py::arg("directory"), py::arg("dtype") = py::none(),
      "Writes a folder that AutoModelForSequenceClassification and CrossEncoder open.");
}

void bind_class(py::module_& module) {
  py::class_<Encoder>(module, "Encoder", "A sentence encoder, with its tokenizer if it was opened with one.")
      .def("hidden", &hidden_of, py::arg("input_ids"), py::arg("languages") = std::vector<std::string>(),
           "Hidden states [n, hidden_size] of the last layer for each row of token ids; rows are packed and "
           "do "
           "not see each other. `languages`: one a row, for X-MOD.")
      .def("encode", &embeddings_of, py::arg("input_ids"), py::arg("languages") = std::vector<std::string>(),
           "Embeddings [rows, dimension] of rows of token ids, special tokens included.")
      .def(
          "embed",
          [](Encoder& model, const std::vector<std::string>& texts, std::int64_t max_length,
             const std::optional<std::string>& prompt, std::int64_t tokens_per_batch,
             const std::optional<std::string>& prompt_name, std::optional<std::int64_t> truncate_dim) {
            if (model.opened.tokenizer == nullptr)
              throw StateError("this encoder was opened without its tokenizer: open it with tokenizer=True");
            eval::EncodeOptions options;
            options.max_length = max_length > 0 ? max_length : model.opened.settings.max_seq_length;
            options.prompt = prompt ? *prompt : hub::prompt_of(model.opened.settings, prompt_name);
            options.include_prompt = model.opened.settings.include_prompt;
            options.tokens_per_batch = tokens_per_batch;
            options.truncate_dim = truncate_dim ? *truncate_dim
                                                : std::min(model.opened.settings.truncate_dim.value_or(0),
                                                           model.get().dimension());
            py::gil_scoped_release release;
            return eval::encode_texts(model.get(), *model.opened.tokenizer, texts, options);
          },
          py::arg("texts"), py::arg("max_length") = 0, py::arg("prompt") = py::none(),
          py::arg("tokens_per_batch") = 4096, py::arg("prompt_name") = py::none(),
          py::arg("truncate_dim") = py::none(),
          "Embeddings [texts, dimension] of texts, float32, or [texts, truncate_dim] where that is set. "
          "`max_length` in tokens; 0: the folder's "
          "max_seq_length. Before each text stands `prompt`, else the folder's prompt of that name, else its "
          "default one, if it has one.")
      .def(
          "attach_lora",
          [](Encoder& model, const py::dict& options, std::uint64_t seed) {
            adapters::LoraOptions lora;
            read_options(options, lora, "attach_lora");
            const adapters::AttachReport report = adapters::attach(model.get().encoder(), lora, seed);
            model.lora = lora;
            return report.trainable_parameters;
          },
          py::arg("options"), py::arg("seed") = 0,
          "Freezes the encoder and attaches LoRA; `options` has PEFT's names. Returns the trained elements.")
      .def(
          "merge",
          [](Encoder& model) {
            py::gil_scoped_release release;
            adapters::merge(model.get().encoder());
          },
          "Folds adapters into the weights.")
      .def(
          "trainable_parameters",
          [](Encoder& model) {
            py::dict named;
            for (const auto& parameter : adapters::trainable_parameters(model.get().encoder()))
              named[py::str(parameter.name)] = parameter.tensor;
            return named;
          },
          "The trained tensors of the encoder by name, not copied.")
      .def(
          "tensors", [](Encoder& model) { return tensors_of(model.get()); },
          "The dense weights by name, not copied.")
      .def_property_readonly("tokenizer", [](const Encoder& model) { return held(model.opened.tokenizer); })
      .def_property_readonly("dimension", [](const Encoder& model) { return model.get().dimension(); })
      .def_property_readonly("max_seq_length",
                             [](const Encoder& model) { return model.opened.settings.max_seq_length; })
      .def_property_readonly("prompts", [](const Encoder& model) { return model.opened.settings.prompts; });
}

}  // namespace

void bind_encoder(py::module_& module) {
  bind_class(module);
  bind_masked_lm(module);
  bind_cross_encoder(module);
  module.def(
      "open_encoder",
      [](const std::filesystem::path& directory, const py::object& dtype, bool tokenizer) {
        hub::OpenOptions options;
        options.dtype = dtype_named(dtype);
        options.tokenizer = tokenizer;
        py::gil_scoped_release release;
        return Encoder{hub::open_sentence_encoder(directory, options), {}};
      },
      py::arg("directory"), py::arg("dtype") = py::none(), py::arg("tokenizer") = false,
      "Opens a folder of sentence-transformers, or of an encoder (bert, distilbert, roberta, xlm-roberta, "
      "camembert, xmod).");
  module.def(
      "load_adapter",
      [](Encoder& model, const std::filesystem::path& directory) {
        model.lora = hub::load_adapter(directory, model.get().encoder());
      },
      py::arg("model"), py::arg("directory"), "Attaches the adapter of a PEFT folder to an encoder.");
  module.def(
      "save_adapter",
      [](Encoder& model, const std::filesystem::path& directory, const std::string& base) {
        hub::save_adapter(directory, model.get().encoder(), model.lora, base);
      },
      py::arg("model"), py::arg("directory"), py::arg("base") = "",
      "Writes the adapter of an encoder as a PEFT folder, for AutoModel.");
  module.def(
      "save_encoder",
      [](Encoder& model, const std::filesystem::path& directory, const py::object& dtype) {
        hub::SaveOptions options;
        options.dtype = dtype_named(dtype);
        py::gil_scoped_release release;
        hub::save_sentence_encoder(directory, model.get(), model.opened.tokenizer.get(),
                                   model.opened.settings, options);
      },
      py::arg("model"), py::arg("directory"), py::arg("dtype") = py::none(),
      "Writes a folder that sentence-transformers opens.");
}

}  // namespace bitrain::python
