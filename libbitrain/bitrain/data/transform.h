#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <bitrain/base/registry.h>
#include <bitrain/data/source.h>
#include <bitrain/fields/rule.h>

namespace bitrain::data {

/// Rewrites examples. One input gives a fixed number of outputs, so that a transformed source can still be
/// asked for by number; an output with nothing in it is skipped by the loader.
struct Transform {
  std::int64_t fan_out = 1;
  /// Output `variant` in [0, fan_out) of an example. A pure function: any thread may call it.
  std::function<Example(Example, std::int64_t variant)> apply;
  /// Languages that outputs may carry, from those of the input. Empty function: the same.
  std::function<std::vector<std::string>(const std::vector<std::string>&)> languages;
};

struct TransformOptions {
  std::string type;
  std::string language;
  std::int64_t clone = 1;
  std::int64_t prompt_words = 4;
  std::int64_t response_words = 0;
  std::map<std::string, std::string> templates;
  std::map<std::string, std::string> language_names;
};

template <class Visitor>
void visit_fields(Visitor& v, TransformOptions& o) {
  v.field("type", o.type,
          required(one_of({"clean_whitespace", "clone_language", "swap_pair", "template",
                           "translation_instruction", "verse_completion"})),
          "What to do with each example.");
  v.field("language", o.language, any(), "clone_language: code of the clone.");
  v.field("clone", o.clone, at_least(0), "clone_language: vocabularies that ids are shifted by.");
  v.field("prompt_words", o.prompt_words, at_least(1), "verse_completion: words given in the prompt.");
  v.field("response_words", o.response_words, at_least(0),
          "verse_completion: words asked for; 0: the rest of the text.");
  v.field(
      "templates", o.templates, any(),
      "By language code ('*': any other): text with {text}, {pair}, {language}, {pair_language}, {prompt}.");
  v.field("language_names", o.language_names, any(),
          "Names put in place of codes by {language} and {pair_language}.");
}

/// Makes a transform. The built-in ones:
///
/// - clean_whitespace: runs of white space (Unicode's included) become one space, ends are trimmed; line
///   breaks stay as one "\n".
/// - clone_language: the same text as another language: tokens get the id + clone * vocabulary size.
/// - swap_pair: the translation becomes the text.
/// - template: text = templates[language] with {text}, {pair}, {language}, {pair_language} filled in.
/// - translation_instruction: a pair becomes two conversations, text to translation and back. The template of
///   the language asked for is the prompt (there are built-in ones for en and es and a general one).
/// - verse_completion: the first words of the text in the prompt ({prompt}), the rest as the response. Texts
///   without a word after the prompt are skipped.
///
/// Throws ConfigError for a template with an unknown {name}.
using TransformRegistry = Registry<Transform(const TransformOptions&)>;
[[nodiscard]] TransformRegistry builtin_transforms();
[[nodiscard]] Transform make_transform(const TransformOptions& options);

/// `source` seen through `transforms`, first to last. Nothing is copied.
[[nodiscard]] SourcePtr transform_source(SourcePtr source, std::vector<Transform> transforms);

/// Fills {name} places of a template. "{{" is a brace. Throws ConfigError for a name that is not in `values`.
[[nodiscard]] std::string fill_template(const std::string& form,
                                        const std::map<std::string, std::string>& values);

}  // namespace bitrain::data
