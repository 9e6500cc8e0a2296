#include <string>
#include <vector>

#include <bitrain/recipe/explain.h>
#include <bitrain/recipe/run_ranks.h>
#include <bitrain/recipe/validate.h>

#include "bind.h"

namespace bitrain::python {
namespace {

py::object from_json(const io::Json& json) {
  return py::module_::import("json").attr("loads")(json.dump());
}

}  // namespace

void bind_recipe(py::module_& module) {
  module.def(
      "run",
      [](const std::filesystem::path& file, const std::vector<std::string>& overrides) {
        recipe::RunResult result;
        {
          py::gil_scoped_release release;
          result =
              recipe::run_as_rank(file, overrides, dist::resolve_environment(dist::environment_variables()));
        }
        if (result.signal != 0) {
          PyErr_SetNone(PyExc_KeyboardInterrupt);
          throw py::error_already_set();
        }
        return from_json(result.summary);
      },
      py::arg("recipe"), py::arg("overrides") = std::vector<std::string>(),
      "Runs a recipe with overrides ('key=value'); returns summary.json's content. Under torchrun, srun, "
      "mpirun or "
      "bitrain launch it is one of several ranks; those above 0 return None. An interrupted run raises "
      "KeyboardInterrupt after a checkpoint was written.");
  module.def(
      "validate",
      [](const std::filesystem::path& file, const std::vector<std::string>& overrides) {
        std::vector<std::string> problems;
        const recipe::Validation validation = recipe::validate(file, overrides);
        for (const recipe::Problem& problem : validation.problems.list()) problems.push_back(problem.text());
        return problems;
      },
      py::arg("recipe"), py::arg("overrides") = std::vector<std::string>(),
      "Every problem of a recipe, as text.");
  module.def(
      "schema", [] { return from_json(recipe::schema()); }, "The JSON schema of recipes.");
}

}  // namespace bitrain::python
