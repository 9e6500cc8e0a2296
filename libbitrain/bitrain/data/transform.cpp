#include <bitrain/data/transform.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::data {
namespace {

/// Bytes of the white space that `text` begins with, or 0. U+FEFF counts: it is a stray byte order mark.
std::size_t leading_space(std::string_view text) {
  static constexpr std::array<std::string_view, 22> kSpaces = {" ",
                                                               "\t",
                                                               "\n",
                                                               "\r",
                                                               "\v",
                                                               "\f",
                                                               "\xc2\xa0",
                                                               "\xc2\x85",
                                                               "\xe1\x9a\x80",
                                                               "\xe2\x80\x80",
                                                               "\xe2\x80\x81",
                                                               "\xe2\x80\x82",
                                                               "\xe2\x80\x83",
                                                               "\xe2\x80\x84",
                                                               "\xe2\x80\x85",
                                                               "\xe2\x80\x86",
                                                               "\xe2\x80\x87",
                                                               "\xe2\x80\x88",
                                                               "\xe2\x80\x89",
                                                               "\xe2\x80\x8a",
                                                               "\xe2\x80\xaf",
                                                               "\xe3\x80\x80"};
  for (std::string_view space : kSpaces) {
    if (starts_with(text, space)) return space.size();
  }
  for (std::string_view space : {"\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x81\x9f", "\xef\xbb\xbf"}) {
    if (starts_with(text, space)) return space.size();
  }
  return 0;
}

std::string clean_whitespace(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  char pending = 0;
  while (!text.empty()) {
    if (const std::size_t space = leading_space(text); space > 0) {
      const bool line_break = text.front() == '\n' || text.front() == '\r';
      if (pending != '\n') pending = line_break ? '\n' : ' ';
      text.remove_prefix(space);
      continue;
    }
    if (pending != 0 && !result.empty()) result.push_back(pending);
    pending = 0;
    result.push_back(text.front());
    text.remove_prefix(1);
  }
  return result;
}

/// End of the first `count` words of `text`, or npos when there are fewer. Words are set apart by white
/// space.
std::size_t end_of_words(std::string_view text, std::int64_t count) {
  std::size_t at = 0;
  std::int64_t words = 0;
  while (at < text.size()) {
    if (const std::size_t space = leading_space(text.substr(at)); space > 0) {
      at += space;
      continue;
    }
    while (at < text.size() && leading_space(text.substr(at)) == 0) ++at;
    if (++words == count) return at;
  }
  return std::string_view::npos;
}

std::string name_of(const std::map<std::string, std::string>& names, const std::string& code) {
  auto found = names.find(code);
  return found == names.end() ? code : found->second;
}

/// The form for `language`: the user's, else the built-in one, for the code, its main part ("pt" of "pt_BR")
/// or any language ("*").
const std::string& form_for(const std::map<std::string, std::string>& forms,
                            const std::map<std::string, std::string>& builtin, const std::string& language) {
  const std::string primary = language.substr(0, language.find_first_of("-_"));
  for (const auto* from : {&forms, &builtin}) {
    for (const std::string& key : {language, primary, std::string("*")}) {
      auto found = from->find(key);
      if (found != from->end()) return found->second;
    }
  }
  throw ConfigError("no template for language '", language, "'; add it, or '*' for any other");
}

/// Tries every template once, so that a wrong name is found before the run.
void check_templates(const std::map<std::string, std::string>& forms, std::vector<std::string> names) {
  std::map<std::string, std::string> values;
  for (std::string& name : names) values.emplace(std::move(name), "x");
  for (const auto& [language, form] : forms) {
    try {
      (void)fill_template(form, values);
    } catch (Error& error) {
      error.add_context("template '" + language + "'");
      throw;
    }
  }
}

Transform make_clean(const TransformOptions&) {
  Transform transform;
  transform.apply = [](Example example, std::int64_t) {
    example.text = clean_whitespace(example.text);
    example.pair_text = clean_whitespace(example.pair_text);
    for (Message& message : example.messages) message.content = clean_whitespace(message.content);
    return example;
  };
  return transform;
}

Transform make_clone(const TransformOptions& options) {
  if (options.language.empty()) throw ConfigError("clone_language needs the clone's language");
  Transform transform;
  transform.apply = [language = options.language, clone = options.clone](Example example, std::int64_t) {
    example.language = language;
    example.clone = clone;
    return example;
  };
  transform.languages = [language = options.language](const auto&) {
    return std::vector<std::string>{language};
  };
  return transform;
}

Transform make_swap(const TransformOptions&) {
  Transform transform;
  transform.apply = [](Example example, std::int64_t) {
    std::swap(example.text, example.pair_text);
    std::swap(example.language, example.pair_language);
    return example;
  };
  return transform;
}

std::map<std::string, std::string> pair_values(const TransformOptions& options, const Example& example) {
  return {{"text", example.text},
          {"pair", example.pair_text},
          {"language", name_of(options.language_names, example.language)},
          {"pair_language", name_of(options.language_names, example.pair_language)}};
}

Transform make_template(const TransformOptions& options) {
  if (options.templates.empty()) throw ConfigError("the transform template needs templates");
  check_templates(options.templates, {"text", "pair", "language", "pair_language"});
  Transform transform;
  transform.apply = [options](Example example, std::int64_t) {
    if (example.text.empty()) return Example{};
    example.text =
        fill_template(form_for(options.templates, {}, example.language), pair_values(options, example));
    return example;
  };
  return transform;
}

Transform make_translation(const TransformOptions& options) {
  check_templates(options.templates, {"text", "language", "pair_language"});
  Transform transform;
  transform.fan_out = 2;
  transform.apply = [options](Example example, std::int64_t variant) {
    static const std::map<std::string, std::string> kBuiltin = {
        {"en", "Translate into English: {text}"},
        {"es", "Traduce al español: {text}"},
        {"*", "Translate from {language} into {pair_language}: {text}"}};
    if (example.text.empty() || example.pair_text.empty()) return Example{};
    if (variant == 1) {
      std::swap(example.text, example.pair_text);
      std::swap(example.language, example.pair_language);
    }
    auto values = pair_values(options, example);
    values.erase("pair");
    example.messages = {
        {"user", fill_template(form_for(options.templates, kBuiltin, example.pair_language), values)},
        {"assistant", example.pair_text}};
    example.language = example.pair_language;
    example.text.clear();
    example.pair_text.clear();
    example.pair_language.clear();
    return example;
  };
  return transform;
}

Transform make_completion(const TransformOptions& options) {
  check_templates(options.templates, {"prompt", "language"});
  if (options.prompt_words < 1) throw ConfigError("verse_completion: prompt_words must be 1 or more");
  Transform transform;
  transform.apply = [options](Example example, std::int64_t) {
    static const std::map<std::string, std::string> kBuiltin = {{"en", "Complete the verse: {prompt}"},
                                                                {"es", "Completa el versículo: {prompt}"},
                                                                {"*", "Complete: {prompt}"}};
    const std::string text = clean_whitespace(example.text);
    const std::size_t cut = end_of_words(text, options.prompt_words);
    if (cut == std::string::npos || cut >= text.size()) return Example{};
    std::string rest = text.substr(cut + 1);
    if (options.response_words > 0) rest = rest.substr(0, end_of_words(rest, options.response_words));
    const std::string form = form_for(options.templates, kBuiltin, example.language);
    example.messages = {
        {"user", fill_template(form, {{"prompt", text.substr(0, cut)},
                                      {"language", name_of(options.language_names, example.language)}})},
        {"assistant", rest}};
    example.text.clear();
    example.pair_text.clear();
    return example;
  };
  return transform;
}

class TransformedSource : public Source {
 public:
  TransformedSource(SourcePtr source, std::vector<Transform> transforms)
      : source_(std::move(source)), transforms_(std::move(transforms)) {
    for (const Transform& transform : transforms_) {
      if (transform.fan_out < 1 || !transform.apply) {
        throw ConfigError("a transform needs a function and a fan_out of at least 1");
      }
      fan_out_ *= transform.fan_out;
    }
  }

  const std::string& name() const override { return source_->name(); }
  std::int64_t size() const override { return source_->size() * fan_out_; }

  std::vector<std::string> languages() const override {
    std::vector<std::string> result = source_->languages();
    for (const Transform& transform : transforms_) {
      if (transform.languages) result = transform.languages(result);
    }
    return result;
  }

  Example at(std::int64_t index) const override {
    Example example = source_->at(index / fan_out_);
    std::int64_t variant = index % fan_out_;
    for (const Transform& transform : transforms_) {
      if (example.empty()) break;
      example = transform.apply(std::move(example), variant % transform.fan_out);
      variant /= transform.fan_out;
    }
    return example;
  }

 private:
  SourcePtr source_;
  std::vector<Transform> transforms_;
  std::int64_t fan_out_ = 1;
};

}  // namespace

TransformRegistry builtin_transforms() {
  TransformRegistry registry("transform");
  registry.add("clean_whitespace", make_clean);
  registry.add("clone_language", make_clone);
  registry.add("swap_pair", make_swap);
  registry.add("template", make_template);
  registry.add("translation_instruction", make_translation);
  registry.add("verse_completion", make_completion);
  return registry;
}

Transform make_transform(const TransformOptions& options) {
  return builtin_transforms().get(options.type)(options);
}

SourcePtr transform_source(SourcePtr source, std::vector<Transform> transforms) {
  if (transforms.empty()) return source;
  return std::make_shared<TransformedSource>(std::move(source), std::move(transforms));
}

std::string fill_template(const std::string& form, const std::map<std::string, std::string>& values) {
  std::string result;
  for (std::size_t i = 0; i < form.size(); ++i) {
    if (form[i] != '{') {
      result.push_back(form[i]);
    } else if (form.compare(i, 2, "{{") == 0) {
      result.push_back('{');
      ++i;
    } else {
      const std::size_t close = form.find('}', i);
      const std::string name = form.substr(i + 1, close == std::string::npos ? close : close - i - 1);
      auto found = values.find(name);
      if (close == std::string::npos || found == values.end()) {
        std::vector<std::string> names;
        names.reserve(values.size());
        for (const auto& entry : values) names.push_back(entry.first);
        throw ConfigError("template '", form, "': {", name, "} is not known", did_you_mean(name, names),
                          "; there are: ", join(names, ", "), " (write {{ for a brace)");
      }
      result += found->second;
      i = close;
    }
  }
  return result;
}

}  // namespace bitrain::data
