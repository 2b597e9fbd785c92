// The sampler, for tests; and how Python's sampling parameters are read.
#pragma once
#include <nanobind/nanobind.h>

#include "sampler/sampler.h"

namespace tgi {

// From an engine.types.SamplingParams. Raises ValueError where it samples without a seed.
SamplingParams sampling_params(nanobind::handle params);

void bind_sampler(nanobind::module_& module);

}  // namespace tgi
