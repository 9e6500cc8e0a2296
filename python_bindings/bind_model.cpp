#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/utils/pybind.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/merge.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/hub/peft.h>
#include <bitrain/models/generation.h>
#include <bitrain/models/quantize.h>

#include "bind.h"
#include "options.h"

namespace bitrain::python {
namespace {

/// A model with its tokenizer, and the options of its adapter where it has one.
struct Model {
  hub::OpenedModel opened;
  adapters::LoraOptions lora;

  [[nodiscard]] models::LanguageModel& get() const { return *opened.model; }
};

Batch batch_of(const std::vector<std::vector<std::int32_t>>& rows) {
  std::vector<std::vector<std::int32_t>> labels;
  labels.reserve(rows.size());
  for (const auto& row : rows) labels.emplace_back(row.size(), static_cast<std::int32_t>(kIgnoreIndex));
  return make_batch(rows, labels);
}

std::vector<at::Tensor> logits_of(Model& model, const std::vector<std::vector<std::int32_t>>& rows) {
  const Batch batch = batch_of(rows);
  std::vector<at::Tensor> result;
  py::gil_scoped_release release;
  const at::Tensor all = adapters::logits(model.get(), batch);
  for (std::size_t row = 0; row < rows.size(); ++row)
    result.push_back(all.narrow(0, batch.boundaries[row], batch.boundaries[row + 1] - batch.boundaries[row]));
  return result;
}

std::vector<std::int32_t> generate(Model& model, const std::vector<std::int32_t>& prompt,
                                   const py::kwargs& options) {
  models::GenerationOptions generation;
  read_options(options, generation, "generate");
  py::gil_scoped_release release;
  return models::generate(model.get(), prompt, generation);
}

void bind_class(py::module_& module) {
  py::class_<Model>(module, "Model", "A causal language model, with its tokenizer if it was opened with one.")
      .def("logits", &logits_of, py::arg("input_ids"),
           "Logits [n, vocab] in float32 for each row of token ids; rows are packed and do not see each "
           "other.")
      .def(
          "generate", &generate, py::arg("prompt"),
          "Continues token ids; keywords as in `bitrain generate` (max_new_tokens, temperature, top_k, ...).")
      .def(
          "attach_lora",
          [](Model& model, const py::dict& options, std::uint64_t seed) {
            adapters::LoraOptions lora;
            read_options(options, lora, "attach_lora");
            const adapters::AttachReport report = adapters::attach(model.get(), lora, seed);
            model.lora = lora;
            return report.trainable_parameters;
          },
          py::arg("options"), py::arg("seed") = 0,
          "Freezes the model and attaches LoRA; `options` has PEFT's names. Returns the trained elements.")
      .def(
          "merge",
          [](Model& model, bool requantize) {
            adapters::MergeOptions options;
            options.requantize = requantize;
            py::gil_scoped_release release;
            adapters::merge(model.get(), options);
          },
          py::arg("requantize") = false, "Folds adapters into the weights.")
      .def(
          "quantize", [](Model& model) { return models::quantize(model.get()); },
          "Packs the linear maps in NF4 with double quantisation; returns their paths.")
      .def(
          "trainable_parameters",
          [](Model& model) {
            py::dict named;
            for (const auto& parameter : adapters::trainable_parameters(model.get()))
              named[py::str(parameter.name)] = parameter.tensor;
            return named;
          },
          "The trained tensors by name, not copied.")
      .def(
          "tensors",
          [](Model& model) {
            py::dict named;
            model.get().visit_tensors(
                [&](const std::string& name, at::Tensor& tensor) { named[py::str(name)] = tensor; });
            return named;
          },
          "The dense weights by their Hugging Face names, not copied.")
      .def_property_readonly("tokenizer", [](const Model& model) { return held(model.opened.tokenizer); })
      .def_property_readonly(
          "vocab_size", [](const Model& model) { return model.get().input_embeddings().num_embeddings(); });
}

}  // namespace

void bind_model(py::module_& module) {
  bind_class(module);
  module.def(
      "open_model",
      [](const std::filesystem::path& directory, const py::object& dtype, bool quantize, bool tokenizer) {
        hub::OpenOptions options;
        options.dtype = dtype_named(dtype);
        if (quantize) options.quantize.emplace();
        options.tokenizer = tokenizer;
        py::gil_scoped_release release;
        return Model{hub::open_model(directory, options), {}};
      },
      py::arg("directory"), py::arg("dtype") = py::none(), py::arg("quantize") = false,
      py::arg("tokenizer") = false, "Opens a Hugging Face folder (llama, mistral, qwen2).");
  module.def(
      "save_model",
      [](Model& model, const std::filesystem::path& directory, const py::object& dtype) {
        hub::SaveOptions options;
        options.dtype = dtype_named(dtype);
        py::gil_scoped_release release;
        hub::save_model(directory, model.get(), model.opened.tokenizer.get(), options);
      },
      py::arg("model"), py::arg("directory"), py::arg("dtype") = py::none(),
      "Writes a folder that transformers opens.");
  module.def(
      "load_adapter",
      [](Model& model, const std::filesystem::path& directory) {
        model.lora = hub::load_adapter(directory, model.get());
      },
      py::arg("model"), py::arg("directory"), "Attaches the adapter of a PEFT folder.");
  module.def(
      "save_adapter",
      [](Model& model, const std::filesystem::path& directory, const std::string& base) {
        hub::save_adapter(directory, model.get(), model.lora, base);
      },
      py::arg("model"), py::arg("directory"), py::arg("base") = "", "Writes the adapter as a PEFT folder.");
}

}  // namespace bitrain::python
