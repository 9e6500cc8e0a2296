#include <bitrain/data/transform.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

namespace bitrain::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

SourcePtr pairs() {
  Example a;
  a.text = "God is good.";
  a.pair_text = "Dios es bueno.";
  a.language = "en";
  a.pair_language = "es";
  Example b = a;
  b.text = "One";
  b.pair_text = "Uno";
  return make_source("bible", "en", {a, b});
}

TransformOptions named(const std::string& type) {
  TransformOptions o;
  o.type = type;
  return o;
}

TEST(Transform, TranslationGivesBothDirections) {
  auto source = transform_source(pairs(), {make_transform(named("translation_instruction"))});
  ASSERT_EQ(source->size(), 4);
  const Example there = source->at(0);
  const Example back = source->at(1);
  EXPECT_EQ(there.language, "es");
  EXPECT_EQ(there.messages[0].content, "Traduce al español: God is good.");
  EXPECT_EQ(there.messages[1].content, "Dios es bueno.");
  EXPECT_EQ(back.language, "en");
  EXPECT_EQ(back.messages[0].content, "Translate into English: Dios es bueno.");
  EXPECT_EQ(back.messages[1].content, "God is good.");
  EXPECT_EQ(source->at(3).messages[1].content, "One");
  EXPECT_THAT(source->languages(), ElementsAre("en", "es"));
}

TEST(Transform, TranslationTakesTemplatesAsData) {
  TransformOptions o = named("translation_instruction");
  o.templates = {{"*", "{language}>{pair_language}: {text} {{x}"}};
  o.language_names = {{"es", "Spanish"}};
  EXPECT_EQ(transform_source(pairs(), {make_transform(o)})->at(0).messages[0].content,
            "en>Spanish: God is good. {x}");
}

TEST(Transform, CompletionSplitsAtWordsAndSkipsShortTexts) {
  TransformOptions o = named("verse_completion");
  o.prompt_words = 2;
  auto source = transform_source(pairs(), {make_transform(o)});
  EXPECT_EQ(source->at(0).messages[0].content, "Complete the verse: God is");
  EXPECT_EQ(source->at(0).messages[1].content, "good.");
  EXPECT_TRUE(source->at(1).empty());
}

TEST(Transform, CompletionLimitsTheReply) {
  TransformOptions o = named("verse_completion");
  o.prompt_words = 1;
  o.response_words = 1;
  auto source = transform_source(pairs(), {make_transform(named("swap_pair")), make_transform(o)});
  EXPECT_EQ(source->at(0).messages[0].content, "Completa el versículo: Dios");
  EXPECT_EQ(source->at(0).messages[1].content, "es");
  EXPECT_EQ(source->at(0).language, "es");
}

TEST(Transform, CleansWhiteSpaceOfUnicode) {
  Example example;
  example.text = "\xef\xbb\xbf a\xc2\xa0\xe2\x80\x83 b\t\r\n \n c \xe3\x80\x80";
  auto source =
      transform_source(make_source("x", "en", {example}), {make_transform(named("clean_whitespace"))});
  EXPECT_EQ(source->at(0).text, "a b\nc");
}

TEST(Transform, ClonesALanguage) {
  TransformOptions o = named("clone_language");
  o.language = "en2";
  o.clone = 2;
  auto source = transform_source(pairs(), {make_transform(o)});
  EXPECT_EQ(source->at(0).language, "en2");
  EXPECT_EQ(source->at(0).clone, 2);
  EXPECT_EQ(source->at(0).text, "God is good.");
  EXPECT_THAT(source->languages(), ElementsAre("en2"));
  o.language.clear();
  EXPECT_THROW((void)make_transform(o), ConfigError);
}

TEST(Transform, WrongNamesAreErrorsBeforeTheRun) {
  EXPECT_THROW((void)make_transform(named("clean_whitspace")), ConfigError);
  TransformOptions o = named("template");
  EXPECT_THROW((void)make_transform(o), ConfigError);
  o.templates = {{"en", "{txt}"}};
  try {
    (void)make_transform(o);
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("template 'en'"));
    EXPECT_THAT(error.what(), HasSubstr("{txt} is not known (did you mean 'text'?)"));
  }
  o.templates = {{"en", "open {text"}};
  EXPECT_THROW((void)make_transform(o), ConfigError);
  o.templates = {{"de", "{text}"}};
  auto source = transform_source(pairs(), {make_transform(o)});
  EXPECT_THROW((void)source->at(0), ConfigError);  // no template for "en"
}

TEST(Transform, ChainsMultiplyWhatTheyGive) {
  TransformOptions o = named("template");
  o.templates = {{"*", "<{text}|{pair}>"}};
  Transform twice;
  twice.fan_out = 3;
  twice.apply = [](Example example, std::int64_t variant) {
    example.text += std::to_string(variant);
    return example;
  };
  auto source = transform_source(pairs(), {twice, make_transform(o)});
  ASSERT_EQ(source->size(), 6);
  EXPECT_EQ(source->at(4).text, "<One1|Uno>");
}

}  // namespace
}  // namespace bitrain::data
