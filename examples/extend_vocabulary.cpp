// Gives a model the words of another language: new pieces behind the old ones, their rows by zip-tie.
//
//   example_extend_vocabulary MODEL_DIR TEXT_FILE OUT_DIR

#include <cstdio>

#include <bitrain/base/cpu_allocator.h>
#include <bitrain/base/error.h>
#include <bitrain/data/source.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/vocab/apply.h>
#include <bitrain/vocab/fertility.h>
#include <bitrain/vocab/plan.h>

int main(int argc, char** argv) {
  using namespace bitrain;
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s MODEL_DIR TEXT_FILE OUT_DIR\n", argv[0]);
    return 2;
  }
  install_cpu_allocator();
  try {
    data::SourceOptions text_file;
    text_file.path = argv[2];
    const std::vector<std::string> lines = data::texts_of(*data::open_source(text_file));

    hub::OpenedModel opened = hub::open_model(argv[1]);
    vocab::ExtensionOptions options;
    options.pieces = 2000;
    const vocab::ExtensionPlan plan = vocab::plan_extension(opened.tokenizer, text::lines_of(lines), options);
    vocab::InitialiserOptions initialiser;
    initialiser.preset = "zip_tie";
    vocab::apply_extension(*opened.model, plan, initialiser, /*seed=*/42);
    hub::save_model(argv[3], *opened.model, plan.tokenizer.get());

    const auto fertility = [&](const text::Tokenizer& tokenizer) {
      return vocab::measure_fertility(tokenizer, text::lines_of(lines)).tokens_per_word();
    };
    std::printf("%zu pieces added; tokens per word %.2f -> %.2f\n", plan.pieces.size(), fertility(*plan.base),
                fertility(*plan.tokenizer));
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
