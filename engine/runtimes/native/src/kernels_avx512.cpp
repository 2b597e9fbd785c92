// Compiled for avx512 alone; see CMakeLists.txt for its flags.
#include <immintrin.h>

#include "kernels.h"

namespace tgi {
namespace avx512 {
#include "simd/avx512.h"
#include "kernels/table.h"
}  // namespace avx512

const Kernels avx512_kernels = {
    "avx512",
    avx512::embed,
    avx512::norm,
    avx512::add,
    avx512::activate,
    avx512::rotate,
    avx512::scale_cap,
    avx512::prepare,
    avx512::multiply,
    avx512::store_kv,
    avx512::attend,
    avx512::attend_partial,
    avx512::combine,
    avx512::attention_scratch,
    avx512::argmax,
    avx512::read,
    avx512::fma_rounds,
    avx512::dot_rounds,
};
}  // namespace tgi
