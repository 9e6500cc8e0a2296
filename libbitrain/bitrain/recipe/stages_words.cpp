#include <algorithm>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/eval/alignment.h>
#include <bitrain/eval/check_embeddings.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/rcsls.h>
#include <bitrain/nn/unit_rows.h>
#include <bitrain/recipe/encoder_stage.h>

/// Stages about words: align_words, evaluate_lexicon.
namespace bitrain::recipe {
namespace {

io::Json scores_json(const eval::LexiconScores& scores) {
  return {{"precision@1", scores.precision_at_1},
          {"precision@5", scores.precision_at_5},
          {"mrr", scores.mrr},
          {"words", scores.words}};
}

// ---- align_words

/// Vectors of a file with rows of length 1.
eval::WordVectors read_unit_vectors(const std::filesystem::path& path,
                                    const eval::WordVectorOptions& options) {
  eval::WordVectors vectors = eval::read_word_vectors(path, options);
  eval::check_embeddings(vectors.vectors, path.string());
  vectors.vectors = nn::unit_rows(vectors.vectors);
  return vectors;
}

struct Spaces {
  eval::WordVectors source;
  eval::WordVectors target;
  eval::Lexicon train;
  eval::Lexicon test;
};

Spaces read_spaces(const AlignWordsStage& options, const Recipe& recipe) {
  Spaces spaces;
  spaces.source = read_unit_vectors(resolve(recipe, options.source_vectors), options.vectors);
  spaces.target = read_unit_vectors(resolve(recipe, options.target_vectors), options.vectors);
  const std::int64_t left = spaces.source.vectors.size(1);
  const std::int64_t right = spaces.target.vectors.size(1);
  if (left != right)
    throw DataError("vectors of ", options.source_vectors, " have ", left, " numbers, those of ",
                    options.target_vectors, " ", right, ": only spaces of one width can be aligned");
  const auto look_up = [&](const std::string& path) {
    try {
      return eval::look_up(eval::read_dictionary(resolve(recipe, path)), spaces.source, spaces.target);
    } catch (DataError& error) {
      error.add_context(path);
      throw;
    }
  };
  spaces.train = look_up(options.train_dictionary);
  spaces.test = look_up(options.test_dictionary);
  return spaces;
}

}  // namespace

void run_stage(const AlignWordsStage& options, StageContext& context) {
  const at::NoGradGuard no_grad;
  const Spaces spaces = read_spaces(options, context.recipe);
  const at::Tensor& sources = spaces.source.vectors;
  const at::Tensor& targets = spaces.target.vectors;
  const eval::AlignmentData data{sources.index_select(0, spaces.train.sources),
                                 targets.index_select(0, spaces.train.targets), sources, targets};
  const std::vector<std::pair<std::string, at::Tensor>> maps = {
      {"identity", at::eye(sources.size(1), sources.options())},
      {"procrustes", eval::procrustes(data.x, data.y)},
      {"rcsls", eval::fit_rcsls(data, options.rcsls)}};
  io::Json& alignment = context.result["alignment"];
  alignment = {{"source_words", spaces.source.words.size()},
               {"target_words", spaces.target.words.size()},
               {"train_pairs", spaces.train.sources.size(0)},
               {"train_coverage", spaces.train.coverage()},
               {"coverage", spaces.test.coverage()}};
  io::Json rows = io::Json::array();
  for (const auto& [name, map] : maps) {
    const at::Tensor mapped = at::matmul(sources, map);
    for (const bool csls : {false, true}) {
      eval::LexiconOptions lexicon = options.lexicon;
      if (!csls) lexicon.csls_neighbours = 0;
      if (csls && lexicon.csls_neighbours == 0) continue;
      const eval::LexiconScores scores = eval::score_lexicon(mapped, targets, spaces.test, lexicon);
      alignment[name][csls ? "csls" : "nearest"] = scores_json(scores);
      rows.push_back({name, csls ? "CSLS" : "nearest", scores.precision_at_1, scores.precision_at_5,
                      scores.mrr, scores.words, scores.coverage});
    }
    if (name == "identity") continue;
    eval::WordVectors written;
    written.words = spaces.source.words;
    written.vectors = mapped;
    eval::write_word_vectors(context.out / (context.recipe.source.language + "." + name + ".vec"), written);
  }
  context.result["tables"] = io::Json::array(
      {{{"title",
         "Word vectors: " + context.recipe.source.language + " to " + context.recipe.target.language},
        {"note", std::to_string(spaces.train.sources.size(0)) + " pairs to fit, each test word among " +
                     std::to_string(spaces.target.words.size()) + " target words"},
        {"columns", {"Map", "Search", "P@1", "P@5", "MRR", "Words", "Coverage"}},
        {"rows", rows}}});
}

// ---- evaluate_lexicon

namespace {

std::string name_of(const DictionaryOptions& dictionary) {
  return dictionary.name.empty() ? std::filesystem::path(dictionary.path).stem().string() : dictionary.name;
}

/// The words of one side of a dictionary, each once.
struct Side {
  std::vector<std::string> words;
  std::unordered_map<std::string, std::int64_t> rows;

  std::int64_t add(const std::string& word) {
    const auto [found, fresh] = rows.emplace(word, words.size());
    if (fresh) words.push_back(word);
    return found->second;
  }
};

}  // namespace

void run_stage(const EvaluateLexiconStage& options, StageContext& context) {
  const at::NoGradGuard no_grad;
  const Recipe& recipe = context.recipe;
  const hub::OpenedSentenceEncoder opened = open_stage_encoder(context, context.stage.from);
  if (!options.pool_special_tokens) leave_out_special_tokens(opened);
  std::vector<std::string> languages = {recipe.source.language, recipe.target.language};
  const auto index_of = [&](const std::string& given, const std::string& otherwise) {
    const std::string& language = given.empty() ? otherwise : given;
    const auto found = std::find(languages.begin(), languages.end(), language);
    if (found == languages.end()) languages.push_back(language);
    return static_cast<std::int32_t>(found - languages.begin());
  };
  std::vector<std::pair<std::int32_t, std::int32_t>> codes;
  for (const DictionaryOptions& dictionary : options.dictionaries)
    codes.emplace_back(index_of(dictionary.language, recipe.source.language),
                       index_of(dictionary.target_language, recipe.target.language));
  opened.model->encoder().set_languages(languages);
  io::Json rows = io::Json::array();
  for (std::size_t i = 0; i < options.dictionaries.size(); ++i) {
    const DictionaryOptions& dictionary = options.dictionaries[i];
    Side source;
    Side target;
    std::vector<std::int64_t> left;
    std::vector<std::int64_t> right;
    for (const eval::WordPair& pair : eval::read_dictionary(resolve(recipe, dictionary.path))) {
      left.push_back(source.add(pair.source));
      right.push_back(target.add(pair.target));
    }
    if (target.words.size() < 2)
      throw DataError(dictionary.path, ": all words have the one translation '", target.words.front(),
                      "': there is nothing to tell it from");
    const auto asked = static_cast<std::int64_t>(source.words.size());
    const eval::Lexicon lexicon{at::tensor(left), at::tensor(right), asked, asked};
    eval::EncodeOptions encode;
    encode.max_length = options.max_length;
    encode.language = codes[i].first;
    const at::Tensor sources = eval::encode_texts(*opened.model, *opened.tokenizer, source.words, encode);
    encode.language = codes[i].second;
    const at::Tensor targets = eval::encode_texts(*opened.model, *opened.tokenizer, target.words, encode);
    const eval::LexiconScores scores = eval::score_lexicon(sources, targets, lexicon, options.lexicon);
    const std::string name = name_of(dictionary);
    log_info(context.stage.name, ": ", name, ", MRR ", scores.mrr, " of ", scores.words, " words");
    context.result["lexicon"][name] = scores_json(scores);
    context.result["lexicon"][name]["candidates"] = target.words.size();
    rows.push_back(
        {name, scores.mrr, scores.precision_at_1, scores.precision_at_5, scores.words, target.words.size()});
  }
  context.result["tables"] = io::Json::array(
      {{{"title", "Words and their translations"},
        {"note", "each word of a dictionary is to find one of its translations among all of them"},
        {"columns", {"Dictionary", "MRR", "P@1", "P@5", "Words", "Candidates"}},
        {"rows", rows}}});
}

}  // namespace bitrain::recipe
