#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <unistd.h>

#include <ATen/core/grad_mode.h>

#include <bitrain/adapters/merge.h>
#include <bitrain/base/cuda_library.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/cli/cli.h>
#include <bitrain/cli/text_options.h>
#include <bitrain/data/source.h>
#include <bitrain/eval/completion.h>
#include <bitrain/eval/perplexity.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/hub/peft.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/json.h>
#include <bitrain/models/generation.h>

namespace bitrain::cli {
namespace {

/// How a model folder is opened, shared by the verbs.
struct ModelArguments {
  std::string dir;
  std::string adapter;
  std::string dtype;
  std::string device = "cpu";
  bool quantize = false;
};

void add_model_arguments(CLI::App& verb, ModelArguments& arguments) {
  is_path(verb.add_option("dir", arguments.dir, "Hugging Face model folder")->required());
  is_path(verb.add_option("--adapter", arguments.adapter, "PEFT adapter folder to put on it"));
  verb.add_option("--dtype", arguments.dtype, "float32, bfloat16 or float16 (default: as stored)")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}));
  verb.add_option("--device", arguments.device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  verb.add_flag("--nf4", arguments.quantize, "Keep the linear maps in NF4, as QLoRA trains on them");
}

at::ScalarType dtype_named(const std::string& name) {
  return name == "bfloat16" ? at::kBFloat16 : name == "float16" ? at::kHalf : at::kFloat;
}

hub::OpenedModel open(const ModelArguments& arguments) {
  if (arguments.device == "cuda") require_cuda();
  hub::OpenOptions options;
  if (!arguments.dtype.empty()) options.dtype = dtype_named(arguments.dtype);
  options.device = at::Device(arguments.device);
  if (arguments.quantize) options.quantize.emplace();
  hub::OpenedModel opened = hub::open_model(arguments.dir, options);
  if (!arguments.adapter.empty()) hub::load_adapter(arguments.adapter, *opened.model);
  return opened;
}

void add_eval(CLI::App& app) {
  struct Arguments : ModelArguments {
    data::SourceOptions data;
    eval::PerplexityOptions perplexity;
    std::int64_t max_documents = 0;
    bool held_out = false;
    bool json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("eval", "Loss per token and bits per byte of a model on a text");
  add_model_arguments(*verb, *arguments);
  add_text_options(*verb, arguments->data)->required();
  verb->add_option("--language", arguments->data.language, "Code of the text's language, for example es")
      ->required()
      ->check([](const std::string& code) { return code.empty() ? "must not be empty" : ""; });
  verb->add_option("--held-out-every", arguments->data.held_out_every,
                   "Only every k-th row, as held_out.every keeps them")
      ->check(CLI::PositiveNumber);
  verb->add_option("--max-documents", arguments->max_documents, "No more than this many; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--sequence-length", arguments->perplexity.sequence_length, "Longest context")
      ->capture_default_str();
  verb->add_flag("--json", arguments->json, "Figures as JSON");
  verb->callback([arguments] {
    const at::NoGradGuard no_grad;
    const auto split = arguments->data.held_out_every > 0 ? data::Split::kHeldOut : data::Split::kAll;
    const data::SourcePtr source = open_text(arguments->data, split);
    const hub::OpenedModel opened = open(*arguments);
    const std::string& language = arguments->data.language;
    const eval::LanguageScore score =
        eval::perplexity(*opened.model, *opened.tokenizer,
                         {{language, data::texts_of(*source, arguments->max_documents)}},
                         arguments->perplexity)
            .at(language);
    if (const std::string problem = eval::worse_than_no_model(language, score.bits_per_byte);
        !problem.empty())
      log_warn(problem);
    if (arguments->json) {
      const io::Json figures = {{"language", language},
                                {"loss_per_token", score.loss_per_token},
                                {"bits_per_byte", score.bits_per_byte},
                                {"tokens", score.tokens},
                                {"bytes", score.bytes},
                                {"documents", score.documents},
                                {"seconds", score.seconds}};
      print_data(figures.dump(2) + "\n");
      return;
    }
    print(format("%s: %.4f nats per token, %.4f bits per byte (%s tokens, %s bytes, %s documents, %s)\n",
                 language.c_str(), score.loss_per_token, score.bits_per_byte,
                 with_thousands(score.tokens).c_str(), with_thousands(score.bytes).c_str(),
                 with_thousands(score.documents).c_str(), human_seconds(score.seconds).c_str()));
  });
}

/// A batch for comparing two forms of a model: given lines, or the adapter's own folder has none, so plain
/// ids.
Batch probe(const text::Tokenizer& tokenizer, const std::vector<std::string>& lines) {
  std::vector<std::vector<std::int32_t>> rows;
  std::vector<std::vector<std::int32_t>> labels;
  for (const std::string& line : lines) {
    rows.push_back(tokenizer.encode(line));
    if (rows.back().empty()) rows.pop_back();
  }
  if (rows.empty())
    for (std::int64_t begin = 0; begin + 32 <= std::min<std::int64_t>(tokenizer.vocab_size(), 512);
         begin += 32) {
      rows.emplace_back();
      for (std::int64_t i = 0; i < 32; ++i)
        rows.back().push_back(static_cast<std::int32_t>((begin * 7 + i * 13) % tokenizer.vocab_size()));
    }
  for (const auto& row : rows) labels.emplace_back(row.size(), static_cast<std::int32_t>(kIgnoreIndex));
  return make_batch(rows, labels);
}

void add_merge(CLI::App& app) {
  struct Arguments {
    ModelArguments model;
    adapters::MergeOptions merge;
    std::string out;
    std::string text;
    double tolerance = 0.05;
    bool verify = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb =
      app.add_subcommand("merge", "Fold an adapter into its base and write a plain model folder");
  add_model_arguments(*verb, arguments->model);
  verb->get_option("--adapter")->required();
  is_path(verb->add_option("--out", arguments->out, "Folder to write")->required());
  verb->add_flag("--requantize", arguments->merge.requantize,
                 "Write weights that were in 4 bits in 4 bits again");
  verb->add_flag("--verify", arguments->verify,
                 "Compare the logits before and after; fail beyond the tolerance");
  verb->add_option("--tolerance", arguments->tolerance, "Largest mean KL divergence a token, in nats")
      ->capture_default_str();
  is_path(verb->add_option("--text", arguments->text, "File with lines to compare on (default: mixed ids)"));
  verb->callback([arguments] {
    io::check_output_directory(arguments->out);
    const at::NoGradGuard no_grad;
    const hub::OpenedModel opened = open(arguments->model);
    if (arguments->verify) {
      std::vector<std::string> lines;
      if (!arguments->text.empty()) {
        data::SourceOptions options;
        options.path = arguments->text;
        lines = data::texts_of(*open_text(options), 32);
      }
      const Batch batch = probe(*opened.tokenizer, lines).to(at::Device(arguments->model.device));
      const adapters::LogitDifference difference =
          adapters::merge_and_compare(*opened.model, batch, arguments->merge);
      print(
          format("logits: largest difference %.4g, mean KL %.3g nats a token, same likeliest token %.2f %%\n",
                 difference.max_absolute, difference.mean_kl, 100 * difference.top1_agreement));
      if (!(difference.mean_kl <= arguments->tolerance))
        throw StateError("the merged model differs from the adapted one by more than --tolerance ",
                         arguments->tolerance, "; nothing was written");
    } else {
      adapters::merge(*opened.model, arguments->merge);
    }
    hub::save_model(arguments->out, *opened.model, opened.tokenizer.get());
    print_data(arguments->out + "\n");
  });
}

void add_generate(CLI::App& app) {
  struct Arguments : ModelArguments {
    std::vector<std::string> prompts;
    models::GenerationOptions generation;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("generate", "Continue texts");
  add_model_arguments(*verb, *arguments);
  verb->add_option("prompts", arguments->prompts, "Texts to continue")->required();
  models::GenerationOptions& generation = arguments->generation;
  verb->add_option("--max-new-tokens", generation.max_new_tokens, "Longest continuation")
      ->capture_default_str();
  verb->add_option("--temperature", generation.temperature, "0 takes the likeliest token")
      ->capture_default_str();
  verb->add_option("--top-k", generation.top_k, "Draw among this many; 0: all")->capture_default_str();
  verb->add_option("--top-p", generation.top_p, "Draw among those that reach this probability")
      ->capture_default_str();
  verb->add_option("--repetition-penalty", generation.repetition_penalty, "1 changes nothing")
      ->capture_default_str();
  verb->add_option("--seed", generation.seed, "Seed of the draws")->capture_default_str();
  verb->callback([arguments] {
    const hub::OpenedModel opened = open(*arguments);
    const text::Tokenizer& tokenizer = *opened.tokenizer;
    for (const std::string& prompt : arguments->prompts) {
      std::vector<text::TokenId> ids = eval::encode_prompt(tokenizer, prompt);
      const auto continuation =
          models::generate(*opened.model, ids, arguments->generation, {}, tokenizer.vocab_size());
      ids.insert(ids.end(), continuation.begin(), continuation.end());
      print_data(tokenizer.decode(ids) + "\n");
      std::fflush(stdout);
    }
  });
}

}  // namespace

void add_model_verbs(CLI::App& app) {
  add_eval(app);
  add_merge(app);
  add_generate(app);
}

}  // namespace bitrain::cli
