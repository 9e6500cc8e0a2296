#pragma once

#include <memory>
#include <string>

#include <bitrain/io/json.h>
#include <bitrain/text/hf_normalizer.h>

namespace bitrain::text {

/// The "BertNormalizer" of a tokenizer.json (Devlin et al. 2019): "clean_text" drops control characters and
/// makes white space blanks, "handle_chinese_chars" puts blanks around ideographs, "strip_accents" drops the
/// nonspacing marks of the decomposed text (null: where "lowercase" is set), "lowercase". Throws FormatError.
[[nodiscard]] std::unique_ptr<const Normalizer> make_bert_normalizer(const io::Json& json,
                                                                     const std::string& where);

}  // namespace bitrain::text
