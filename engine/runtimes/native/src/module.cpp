// The Python module. What it offers is described in ../_native.pyi.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "isa.h"
#include "pool.h"

namespace nb = nanobind;

namespace tgi {

void bind_pack(nb::module_& m);
void bind_sampler(nb::module_& m);
void bind_runner(nb::module_& m);
void bind_kernels(nb::module_& m);

}  // namespace tgi

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // a worker may live to the end of the process
  using tgi::Pool;
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const tgi::Kernels* kernels : tgi::supported_kernels()) names.push_back(kernels->name);
    return names;
  });
  nb::class_<Pool>(m, "Pool").def(nb::init<int>(), nb::arg("threads")).def_prop_ro("threads", &Pool::threads);
  tgi::bind_pack(m);
  tgi::bind_sampler(m);
  tgi::bind_runner(m);
  tgi::bind_kernels(m);
}
