// Compiled for neon alone; see CMakeLists.txt for its flags.
#include <arm_neon.h>

#include "kernels.h"

namespace tgi {
namespace neon {
#include "simd/neon.h"
#include "kernels/table.h"
}  // namespace neon

const Kernels neon_kernels = {
    "neon",
    neon::embed,
    neon::norm,
    neon::add,
    neon::activate,
    neon::rotate,
    neon::scale_cap,
    neon::prepare,
    neon::multiply,
    neon::store_kv,
    neon::attend,
    neon::attend_partial,
    neon::combine,
    neon::attention_scratch,
    neon::argmax,
    neon::read,
    neon::fma_rounds,
    neon::dot_rounds,
};
}  // namespace tgi
