#include <bitrain/recipe/references.h>

#include <bitrain/base/error.h>

namespace bitrain::recipe {
namespace {

void look(const std::string& key, const Value& value, const Rule& rule, std::vector<Reference>& found) {
  switch (value.kind()) {
    case Kind::kText:
      if (rule.refers != Refers::kNothing && !value.text().empty())
        found.push_back({key, rule.refers, value.text()});
      return;
    case Kind::kStruct:
      for (const Field& field : value.fields()) look(key + "." + field.name, field.value, field.rule, found);
      return;
    case Kind::kList: {
      const std::vector<Value> elements = value.elements();
      for (std::size_t i = 0; i < elements.size(); ++i)
        look(to_text(key, "[", i, "]"), elements[i], rule, found);
      return;
    }
    case Kind::kOptional:
      for (const Value& element : value.elements()) look(key, element, rule, found);
      return;
    case Kind::kMap: {
      const std::vector<std::string> keys = value.keys();
      const std::vector<Value> elements = value.elements();
      for (std::size_t i = 0; i < keys.size(); ++i) look(key + "." + keys[i], elements[i], rule, found);
      return;
    }
    case Kind::kBool:
    case Kind::kInteger:
    case Kind::kNumber: return;
  }
}

}  // namespace

std::vector<Reference> references_of(const FieldList& fields, const std::string& prefix) {
  std::vector<Reference> found;
  for (const Field& field : fields) look(prefix + field.name, field.value, field.rule, found);
  return found;
}

}  // namespace bitrain::recipe
