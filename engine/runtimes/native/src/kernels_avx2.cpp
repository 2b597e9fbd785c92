// Compiled for avx2 alone; see CMakeLists.txt for its flags.
#include <immintrin.h>

#include "kernels.h"

namespace tgi {
namespace avx2 {
#include "simd/avx2.h"
#include "kernels/table.h"
}  // namespace avx2

const Kernels avx2_kernels = {
    "avx2",
    avx2::embed,
    avx2::norm,
    avx2::add,
    avx2::activate,
    avx2::rotate,
    avx2::scale_cap,
    avx2::prepare,
    avx2::multiply,
    avx2::store_kv,
    avx2::attend,
    avx2::attend_partial,
    avx2::combine,
    avx2::attention_scratch,
    avx2::argmax,
    avx2::read,
    avx2::fma_rounds,
    avx2::dot_rounds,
};
}  // namespace tgi
