#pragma once

#include <string>

#include <bitrain/io/json.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::text {

/// The "post_processor" of a tokenizer.json: TemplateProcessing, BertProcessing, RobertaProcessing; ByteLevel
/// and null add nothing; of a Sequence one may add. Offsets are left as they are, also where "trim_offsets"
/// is set: byte-level tokens cover their blank. Throws FormatError, UnsupportedError for another type.
[[nodiscard]] InputTemplate make_input_template(const io::Json& json, const std::string& where);

}  // namespace bitrain::text
