// Which table of kernels this CPU can run.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace tgi {

// The tables that this CPU and its operating system support, best first; the last is always `portable`.
const std::vector<const Kernels*>& supported_kernels();

// The table of that name, or the best where it is empty. Throws std::invalid_argument if there is none.
const Kernels& find_kernels(const std::string& name);

}  // namespace tgi
