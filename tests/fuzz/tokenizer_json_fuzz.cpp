#include <bitrain/base/error.h>
#include <bitrain/text/hf_tokenizer.h>

#include "driver.h"

namespace bitrain::fuzz {

void fuzz_one(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = text::make_hf_tokenizer(input, nullptr, "fuzz");
    for (const std::string& text :
         {std::string("ab aab  <sep>\xC3\xA9 \xE6\x97\xA5 it's 123 \xF0\x9F\x98\x80 "), std::string(100, 'a'),
          std::string(input.substr(0, 100))}) {
      const text::Encoding encoding = tokenizer->encode_with_offsets(text);
      if (encoding.ids != tokenizer->encode(text)) __builtin_trap();
      for (const text::Offset& offset : encoding.offsets) {
        if (offset.begin < 0 || offset.begin > offset.end ||
            offset.end > static_cast<std::int32_t>(text.size()))
          __builtin_trap();
      }
      static_cast<void>(tokenizer->decode(encoding.ids));
      const text::Encoding framed = tokenizer->input_template().frame(encoding, encoding);
      if (framed.ids.size() != 2 * encoding.ids.size() +
                                   static_cast<std::size_t>(tokenizer->input_template().special_count(true)))
        __builtin_trap();
    }
  } catch (const Error&) {
  }
}

std::vector<std::string> seeds() {
  const std::string bpe =
      R"("model":{"type":"BPE","unk_token":"<u>","fuse_unk":true,"byte_fallback":false,"vocab":{"<u>":0,"a":1,"b":2,"ab":3,"Ġ":4,"Ġa":5,"▁":6,"▁a":7,"aa":8},"merges":["a b",["Ġ","a"],["▁","a"],["a","a"]]})";
  const std::string unigram =
      R"("model":{"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["<u>",0],["a",-1],["b",-2.5],["ab",-2],["▁",-3],["▁a",-1.5]]})";
  const std::string added =
      R"("added_tokens":[{"id":9,"content":"<sep>","single_word":false,"lstrip":true,"rstrip":true,"normalized":true,"special":false},{"id":0,"content":"<u>","special":true}],)";
  const std::string wordpiece =
      R"("pre_tokenizer":{"type":"BertPreTokenizer"},"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"<u>","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"<u>":0,"a":1,"##b":2,"ab":3,"it":4,"日":5,"##é":6,".":7,"1":8}})";
  return {
      "{" + added + bpe + "}",
      R"({"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"post_processor":{"type":"BertProcessing","sep":["ab",3],"cls":["a",1]},)" +
          added + wordpiece + "}",
      R"({"normalizer":{"type":"BertNormalizer","clean_text":false,"handle_chinese_chars":false,"strip_accents":true,"lowercase":false},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"a","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"a","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"a":{"id":"a","ids":[1],"tokens":["a"]}}},)" +
          wordpiece + "}",
      R"({"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},)" +
          added + bpe +
          R"(,"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}})",
      R"({"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"'s| ?\\p{L}+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":true,"use_regex":false}]},)" +
          bpe + R"(,"decoder":{"type":"ByteLevel"},"post_processor":{"type":"ByteLevel"}})",
      R"({"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Lowercase"},{"type":"StripAccents"},{"type":"Strip","strip_left":true,"strip_right":true},{"type":"Precompiled","precompiled_charsmap":"BAAAAAAAAABh"}]},"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true},)" +
          unigram + R"(,"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first"}})",
      R"({"normalizer":{"type":"Sequence","normalizers":[{"type":"Nmt"},{"type":"Replace","pattern":{"Regex":"(?i:ss)|[[:punct:]&&[^a-c]]*"},"content":"-"}]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}+|(?<=a)\\h|\\R?\\X|(?<n>b)\\k<n>|x"},"behavior":"Contiguous","invert":true},{"type":"ByteLevel"},{"type":"Digits"},{"type":"UnicodeScripts"},{"type":"FixedLength","length":3},{"type":"CharDelimiterSplit","delimiter":"b"}]},)" +
          bpe + "}",
      R"({"pre_tokenizer":{"type":"ByteLevel"},"decoder":{"type":"CTC","pad_token":"a","word_delimiter_token":"b","cleanup":true},"model":{"type":"WordLevel","unk_token":"<u>","vocab":{"<u>":0,"Ġa":1}}})",
      R"({"pre_tokenizer":{"type":"ByteLevel"},"decoder":{"type":"BPEDecoder","suffix":"</w>"},"model":{"type":"BPE","unk_token":"<u>","continuing_subword_prefix":"##","end_of_word_suffix":"</w>","vocab":{"<u>":0,"a":1,"##b":2,"ab":3,"##b</w>":4,"ab</w>":5},"merges":["a ##b","a ##b</w>"]}})",
      R"({"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Whitespace"},{"type":"Digits","individual_digits":true},{"type":"Punctuation","behavior":"MergedWithNext"},{"type":"WhitespaceSplit"}]},)" +
          unigram + "}"};
}

}  // namespace bitrain::fuzz
