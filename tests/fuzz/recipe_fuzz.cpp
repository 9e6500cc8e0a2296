#include <bitrain/base/error.h>
#include <bitrain/recipe/recipe.h>

#include "driver.h"

namespace bitrain::fuzz {

void fuzz_one(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    recipe::Node document = recipe::parse_yaml(text, "fuzz.yaml");
    // The first line once more, as an override.
    recipe::apply_override(document, text.substr(0, text.find('\n')));
    recipe::Problems problems;
    (void)recipe::read_recipe(document, "fuzz.yaml", problems);
    problems.raise();
  } catch (const Error&) {
  }
}

std::vector<std::string> seeds() {
  return {
      R"(name=x
schema: 1
name: a
source: {path: a.tsv, column: 2, language: en}
target: {path: a.tsv, column: 3, language: es}
held_out: {every: 8}
stages:
  tok: {recipe: tokenizer, tokenizer: {vocab_size: 300}}
  base:
    recipe: pretrain
    from: tok
    model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}
    data: {loader: {mixture: {weights: {source: 0.9, target: 0.1}}}}
    train: {max_steps: 10, learning_rate: 1e-3, schedule: {type: cosine}}
)",
      R"(stages.b.lora.r=4
schema: 1
name: b
base: dir
source: &side {path: x, language: en}
target: {<<: *side, language: es}
stages:
  b: {recipe: cpt, from: base, lora: {r: 8, target_modules: [all-linear], rank_pattern: {q: 4}}, train: {max_tokens: 4096}}
  c: {recipe: merge, from: b, prompts: ["x", 'y']}
)",
      "a.b=[1, {c: d}]\n? [x]\n: - y\n", "--- |\n text\n...\n", "&a [*a, *b]\n"};
}

}  // namespace bitrain::fuzz
