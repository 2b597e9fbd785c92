// Compiled for portable alone; see CMakeLists.txt for its flags.

#include "kernels.h"

namespace tgi {
namespace portable {
#include "simd/portable.h"
#include "kernels/table.h"
}  // namespace portable

const Kernels portable_kernels = {
    "portable",
    portable::embed,
    portable::norm,
    portable::add,
    portable::activate,
    portable::rotate,
    portable::scale_cap,
    portable::prepare,
    portable::multiply,
    portable::store_kv,
    portable::attend,
    portable::attend_partial,
    portable::combine,
    portable::attention_scratch,
    portable::argmax,
    portable::read,
    portable::fma_rounds,
    portable::dot_rounds,
};
}  // namespace tgi
