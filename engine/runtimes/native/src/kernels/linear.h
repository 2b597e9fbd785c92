// Linear layers: the kernels of each kind of weights behind one pair of functions.

static void prepare(const Linear& linear, const float* x, int row, int rows, const Activations& out) {
  switch (linear.kind) {
    case WeightKind::int8: return prepare_int8(linear, x, row, rows, out);
    case WeightKind::int4: return prepare_int4(linear, x, row, rows, out);
    default: return prepare_float(linear, x, row, rows, out);
  }
}

static void multiply(const Linear& linear, const Activations& in, int rows, int begin, int end, float* out,
                     int64_t out_stride) {
  switch (linear.kind) {
    case WeightKind::int8: return multiply_int8(linear, in, rows, begin, end, out, out_stride);
    case WeightKind::int4: return multiply_int4(linear, in, rows, begin, end, out, out_stride);
    default: return multiply_float(linear, in, rows, begin, end, out, out_stride);
  }
}
