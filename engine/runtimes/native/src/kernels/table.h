// The kernels of one instruction set, gathered. Included last in each kernels_<isa>.cpp.
#include "rows.h"
#include "linear_float.h"
#include "linear_int8.h"
#include "linear_int4.h"
#include "linear.h"
#include "attention.h"
#include "ceilings.h"
