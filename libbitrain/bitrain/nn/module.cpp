#include <bitrain/nn/module.h>

namespace bitrain::nn {
namespace {

std::string joined(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

}  // namespace

void Module::visit_own_tensors(const TensorVisitor& visit) {
  for (const auto& [name, tensor] : tensors_)
    if (tensor->defined()) visit(name, *tensor);
}

void Module::visit_modules(const ModuleVisitor& visit, const std::string& path) {
  visit(path, *this);
  for (const auto& [name, child] : children_) child->visit_modules(visit, joined(path, name));
}

void Module::visit_tensors(const TensorVisitor& visit) {
  visit_modules([&visit](const std::string& path, Module& module) {
    module.visit_own_tensors(
        [&](const std::string& name, at::Tensor& tensor) { visit(joined(path, name), tensor); });
  });
}

void Module::visit_all(const PartVisitor& visit) {
  visit_modules([&visit](const std::string&, Module& module) {
    module.visit_own_tensors([&visit](const std::string&, at::Tensor& tensor) { visit(tensor); });
    module.visit_own_parts(visit);
  });
}

Module* Module::find(const std::string& path) {
  Module* found = nullptr;
  visit_modules([&](const std::string& at, Module& module) {
    if (at == path) found = &module;
  });
  return found;
}

std::vector<std::string> Module::module_paths(const std::function<bool(const Module&)>& accept) {
  std::vector<std::string> paths;
  visit_modules([&](const std::string& path, Module& module) {
    if (accept(module)) paths.push_back(path);
  });
  return paths;
}

}  // namespace bitrain::nn
