#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/base/strings.h>
#include <bitrain/cli/cli.h>
#include <bitrain/cli/text_options.h>
#include <bitrain/data/source.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/json.h>
#include <bitrain/vocab/apply.h>
#include <bitrain/vocab/fertility.h>
#include <bitrain/vocab/plan.h>

namespace bitrain::cli {
namespace {

void add_extend(CLI::App& group) {
  struct Arguments {
    std::string dir;
    std::string out;
    data::SourceOptions data;
    vocab::ExtensionOptions vocab;
    vocab::InitialiserOptions initialiser;
    std::int64_t seed = 42;
    std::int64_t multiple = 1;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = group.add_subcommand(
      "extend", "Add pieces learned from a text to a model's tokenizer, embedding and head");
  is_path(verb->add_option("dir", arguments->dir, "Hugging Face model folder")->required());
  add_text_options(*verb, arguments->data)->required();
  is_path(verb->add_option("--out", arguments->out, "Folder to write")->required());
  verb->add_option("--pieces", arguments->vocab.pieces, "Most pieces to add")->capture_default_str();
  verb->add_option("--method", arguments->vocab.method, "continue or merge")
      ->check(CLI::IsMember({"continue", "merge"}))
      ->capture_default_str();
  verb->add_option("--min-frequency", arguments->vocab.min_frequency, "A piece must occur this often")
      ->capture_default_str();
  verb->add_option("--initialiser", arguments->initialiser.preset,
                   "How new rows begin: " + join(vocab::initialiser_names(), ", "))
      ->capture_default_str();
  verb->add_option("--pad-to-multiple-of", arguments->multiple, "Round the rows up")->capture_default_str();
  verb->add_option("--seed", arguments->seed, "Seed of initialisers that draw")->capture_default_str();
  verb->callback([arguments] {
    io::check_output_directory(arguments->out);
    (void)vocab::rules_of(arguments->initialiser);
    const std::vector<std::string> lines = data::texts_of(*open_text(arguments->data));
    hub::OpenedModel opened = hub::open_model(arguments->dir);
    const vocab::ExtensionPlan plan =
        vocab::plan_extension(opened.tokenizer, text::lines_of(lines), arguments->vocab);
    const vocab::ApplyReport report =
        vocab::apply_extension(*opened.model, plan, arguments->initialiser,
                               static_cast<std::uint64_t>(arguments->seed), arguments->multiple);
    hub::save_model(arguments->out, *opened.model, plan.tokenizer.get());
    std::string added =
        to_text(with_thousands(report.added), " pieces added: ", with_thousands(plan.old_vocab_size()),
                " -> ", with_thousands(plan.vocab_size()), " ids, ", with_thousands(report.rows), " rows");
    for (const auto& [reason, count] : plan.dropped_counts())
      added += to_text("; ", with_thousands(count), " dropped: ", reason);
    print(to_text(added, "\n", arguments->out, "\n"));
  });
}

void add_report(CLI::App& group) {
  struct Arguments {
    std::vector<std::string> dirs;
    data::SourceOptions data;
    bool json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = group.add_subcommand("report", "How finely tokenizers cut a text");
  is_path(verb->add_option("dirs", arguments->dirs,
                           "Folders with a tokenizer; the first is what others are compared with")
              ->required());
  add_text_options(*verb, arguments->data)->required();
  verb->add_flag("--json", arguments->json, "Figures as JSON");
  verb->callback([arguments] {
    const std::vector<std::string> lines = data::texts_of(*open_text(arguments->data));
    const auto first = text::open_tokenizer(arguments->dirs.front());
    io::Json all = io::Json::array();
    for (const std::string& dir : arguments->dirs) {
      const auto tokenizer = text::open_tokenizer(dir);
      const vocab::Fertility fertility = vocab::measure_fertility(*tokenizer, text::lines_of(lines));
      const vocab::SegmentationChange change =
          vocab::segmentation_change(*first, *tokenizer, text::lines_of(lines));
      all.push_back({{"tokenizer", dir},
                     {"vocab_size", tokenizer->vocab_size()},
                     {"tokens", fertility.tokens},
                     {"tokens_per_word", fertility.tokens_per_word()},
                     {"bytes_per_token", fertility.bytes_per_token()},
                     {"continued_words", fertility.continued_share()},
                     {"byte_pieces", fertility.byte_share()},
                     {"changed_lines", change.line_share()}});
    }
    if (arguments->json) {
      print_data(all.dump(2) + "\n");
      return;
    }
    print(format("%10s %12s %12s %12s %14s %12s %14s  %s\n", "ids", "tokens", "tokens/word", "bytes/token",
                 "words split", "byte pieces", "lines changed", "tokenizer"));
    for (const io::Json& one : all)
      print(format("%10s %12s %12.3f %12.3f %12.1f %% %10.1f %% %12.1f %%  %s\n",
                   with_thousands(one["vocab_size"].get<std::int64_t>()).c_str(),
                   with_thousands(one["tokens"].get<std::int64_t>()).c_str(),
                   one["tokens_per_word"].get<double>(), one["bytes_per_token"].get<double>(),
                   100 * one["continued_words"].get<double>(), 100 * one["byte_pieces"].get<double>(),
                   100 * one["changed_lines"].get<double>(), one["tokenizer"].get<std::string>().c_str()));
  });
}

}  // namespace

void add_vocab_verbs(CLI::App& app) {
  CLI::App* group = app.add_subcommand("vocab", "Extend vocabularies");
  group->require_subcommand(1);
  add_extend(*group);
  add_report(*group);
}

}  // namespace bitrain::cli
