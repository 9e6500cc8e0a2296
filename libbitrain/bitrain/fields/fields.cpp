#include <bitrain/fields/fields.h>

#include <bitrain/base/error.h>

namespace bitrain::fields {

Kind Value::kind() const {
  return type_->kind;
}

void* Value::expect(Kind kind) const {
  if (type_->kind != kind)
    throw StateError("an option of kind ", static_cast<int>(type_->kind), " is read as one of kind ",
                     static_cast<int>(kind));
  return object_;
}

bool& Value::boolean() const {
  return *static_cast<bool*>(expect(Kind::kBool));
}

std::int64_t& Value::integer() const {
  return *static_cast<std::int64_t*>(expect(Kind::kInteger));
}

double& Value::number() const {
  return *static_cast<double*>(expect(Kind::kNumber));
}

std::string& Value::text() const {
  return *static_cast<std::string*>(expect(Kind::kText));
}

FieldList Value::fields() const {
  return type_->fields(expect(Kind::kStruct));
}

std::optional<Value> Value::short_form() const {
  if (type_->short_form == nullptr) return std::nullopt;
  return type_->short_form(object_);
}

std::vector<std::string> Value::keys() const {
  return type_->keys(expect(Kind::kMap));
}

namespace {

/// A function that only containers have.
template <class Function>
Function of_container(Function function) {
  if (function == nullptr) throw StateError("an option that is no list, optional or map has no elements");
  return function;
}

}  // namespace

std::vector<Value> Value::elements() const {
  return of_container(type_->elements)(object_);
}

void Value::clear() const {
  of_container(type_->clear)(object_);
}

Value Value::add(const std::string& key) const {
  return of_container(type_->add)(object_, key);
}

Fresh Value::fresh_element() const {
  return of_container(type_->fresh_element)();
}

}  // namespace bitrain::fields
