#pragma once

#include <string>
#include <vector>

#include <bitrain/fields/fields.h>

namespace bitrain::recipe {

/// What an option names: a file, a folder or another stage (Rule::refers).
struct Reference {
  std::string key;  ///< "files[0].path", below the options it was found in.
  Refers kind = Refers::kNothing;
  std::string name;  ///< Never empty.
};

/// Everything that options name, in the order of their fields. `prefix` stands before the keys.
[[nodiscard]] std::vector<Reference> references_of(const FieldList& fields, const std::string& prefix = "");

}  // namespace bitrain::recipe
