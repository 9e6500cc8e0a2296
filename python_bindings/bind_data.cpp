#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/data/loader.h>
#include <bitrain/data/mixture.h>

#include "bind.h"
#include "options.h"

namespace bitrain::python {
namespace {

/// A mixture over sources of given sizes, walked one sample at a time: what a Python loader needs.
class Sampler {
 public:
  Sampler(const py::dict& options, const std::map<std::string, std::int64_t>& samples,
          const std::map<std::string, double>& tokens, std::int64_t total_steps, double total_tokens) {
    data::MixtureOptions mixture;
    read_options(options, mixture, "Sampler");
    std::vector<data::MixtureSource> sources;
    for (const auto& [name, count] : samples) {
      const auto known = tokens.find(name);
      sources.push_back(
          {name, name, count, known == tokens.end() ? static_cast<double>(count) : known->second});
      names_.push_back(name);
    }
    mixture_ = std::make_unique<data::Mixture>(mixture, std::move(sources),
                                               data::MixtureRun{total_steps, total_tokens});
    state_ = mixture_->start();
  }

  /// Name of the source of the next sample and the sample's place in the source's order; None at the end.
  py::object next(std::int64_t step, std::int64_t tokens) {
    const std::int64_t source = mixture_->next(state_, step);
    if (source < 0) return py::none();
    const auto index = static_cast<std::size_t>(source);
    const std::int64_t position = state_.sources[index].samples;
    mixture_->record(state_, index, tokens, step);
    return py::make_tuple(names_[index], position);
  }

  [[nodiscard]] py::dict shares(std::int64_t step) const {
    py::dict result;
    const std::vector<double> shares = mixture_->shares(step);
    for (std::size_t i = 0; i < names_.size(); ++i) result[py::str(names_[i])] = shares[i];
    return result;
  }

 private:
  std::vector<std::string> names_;
  std::unique_ptr<data::Mixture> mixture_;
  data::MixtureState state_;
};

}  // namespace

void bind_data(py::module_& module) {
  py::class_<Sampler>(module, "Sampler",
                      "Chooses which language the next sample comes from (docs/recipe.md, mixture).")
      .def(py::init<const py::dict&, const std::map<std::string, std::int64_t>&,
                    const std::map<std::string, double>&, std::int64_t, double>(),
           py::arg("mixture"), py::arg("samples"), py::arg("tokens") = std::map<std::string, double>(),
           py::arg("total_steps") = 0, py::arg("total_tokens") = 0.0,
           "`mixture` as in a recipe; `samples` and `tokens` of each source by name.")
      .def("next", &Sampler::next, py::arg("step") = 0, py::arg("tokens") = 1,
           "(source, position) of the next sample, or None at the end; `tokens` is what the sample will "
           "count.")
      .def("shares", &Sampler::shares, py::arg("step") = 0, "Shares asked for at a step, by source.");
  module.def("shares_by_exponent", &data::shares_by_exponent, py::arg("sizes"), py::arg("exponent"),
             "p_i proportional to size_i ** exponent.");
  module.def("unimax_shares", &data::unimax_shares, py::arg("sizes"), py::arg("budget"),
             py::arg("max_epochs"),
             "UniMax: uniform shares of a budget, nothing read more than max_epochs times.");
}

}  // namespace bitrain::python
