// Attention over pages: against plain loops in double, and bit for bit the same however the work is cut.
#include <cmath>
#include <vector>

#include "checks.h"
#include "numbers.h"

namespace tgi::tests {
namespace {

struct Case {
  KvKind kind;
  int block_size, kv_heads, head_dim, group;
  int start, queries, length;
  bool causal;
  int window;
  float softcap;

  int heads() const { return kv_heads * group; }
};

Case random_case(Random& random) {
  Case c{};
  c.kind = random.pick({KvKind::f32, KvKind::bf16, KvKind::int8});
  c.block_size = random.pick({1, 5, 8, 16, 16, 24, 32, 64, 256});
  c.kv_heads = random.between(1, 3);
  c.head_dim = random.pick({1, 8, 10, 16, 32, 40, 64, 80, 96, 128});
  c.group = random.between(1, 9);
  c.start = random.chance(2) ? random.below(c.block_size == 1 ? 60 : 600) : random.pick({0, 1, 15, 16, 17, 31});
  c.queries = random.chance(8) ? random.between(40, 120) : random.between(1, 7);
  c.causal = !random.chance(4);
  c.window = random.chance(2) ? 0 : random.pick({1, 2, 7, 16, 100, 257, 300});
  c.softcap = random.chance(3) ? 5.0f : 0.0f;
  c.length = c.start + c.queries + (c.causal ? 0 : random.below(50));
  return c;
}

// Pages with more blocks than the request has, in any order. What was never written is junk: NaN where a kind has one.
class Pages {
 public:
  Pages(const Case& c, Random& random)
      : count_((c.length + c.block_size - 1) / c.block_size),
        cache_{c.kind,     c.block_size, (c.block_size + LANES - 1) / LANES * LANES,
               c.kv_heads, c.head_dim,   (c.head_dim + 15) / 16 * 16,
               nullptr,    nullptr,      nullptr,
               nullptr},
        keys_(slots() * size_t(cache_.dim) * size()),
        values_(keys_.size()),
        key_scales_(c.kind == KvKind::int8 ? slots() : 0, NOT_A_NUMBER),
        value_scales_(key_scales_.size(), NOT_A_NUMBER) {
    for (int i = 0; i < count_; i++) blocks_.push_back(i + 2);
    for (int i = count_ - 1; i > 0; i--) std::swap(blocks_[size_t(i)], blocks_[size_t(random.below(i + 1))]);
    for (Array<uint8_t>* bytes : {&keys_, &values_})
      for (size_t i = 0; i < bytes->size(); i++)
        (*bytes)[i] = c.kind == KvKind::int8 ? static_cast<uint8_t>(random.next()) : 0xff;  // all ones are a NaN
    cache_.keys = keys_.data();
    cache_.values = values_.data();
    if (c.kind == KvKind::int8) {
      cache_.key_scales = key_scales_.data();
      cache_.value_scales = value_scales_.data();
    }
  }

  const KvCache& cache() const { return cache_; }
  const int32_t* blocks() const { return blocks_.data(); }

  // By the description of KvCache in kernels.h.
  double key(int position, int head, int dim) const {
    const size_t row = row_of(position, head), lane = row % 16, d = size_t(dim), packed = 4 / size();
    return number(keys_, (row - lane) * size_t(cache_.dim) + (d / packed * 16 + lane) * packed + d % packed) *
           scale(key_scales_, row);
  }
  double value(int position, int head, int dim) const {
    return value_number(position, head, dim) * value_scale(position, head);
  }
  double value_number(int position, int head, int dim) const {
    const size_t row = row_of(position, head), packed = cache_.kind == KvKind::int8 ? 4 : 1, place = row % packed;
    return number(values_, (row - place) * size_t(cache_.dim) + size_t(dim) * packed + place);
  }
  double value_scale(int position, int head) const { return scale(value_scales_, row_of(position, head)); }

 private:
  size_t slots() const { return size_t(count_ + 3) * size_t(cache_.kv_heads) * size_t(cache_.slots); }
  size_t size() const { return cache_.kind == KvKind::f32 ? 4 : cache_.kind == KvKind::bf16 ? 2 : 1; }
  size_t row_of(int position, int head) const {
    const size_t block = size_t(blocks_[size_t(position / cache_.block_size)]);
    return (block * size_t(cache_.kv_heads) + size_t(head)) * size_t(cache_.slots) +
           size_t(position % cache_.block_size);
  }
  double number(const Array<uint8_t>& bytes, size_t i) const {
    if (cache_.kind == KvKind::f32) return read_as<float>(bytes.data() + 4 * i);
    return cache_.kind == KvKind::bf16 ? from_bf16(read_as<uint16_t>(bytes.data() + 2 * i))
                                       : bytes[i] - 128.0;
  }
  double scale(const Array<float>& scales, size_t row) const { return scales.size() ? scales[row] : 1; }

  int count_;
  KvCache cache_;
  Array<uint8_t> keys_, values_;
  Array<float> key_scales_, value_scales_;
  std::vector<int32_t> blocks_;
};

class Attention {
 public:
  Attention(const Kernels& kernels, const Case& c, Random& random)
      : kernels_(kernels),
        case_(c),
        random_(random),
        pages_(c, random),
        keys_(c.length * c.kv_heads, c.head_dim, random),
        values_(c.length * c.kv_heads, c.head_dim, random),
        queries_(size_t(c.queries) * width()),
        stride_(width() + size_t(random.below(3))),
        scratch_(size_t(kernels.attention_scratch(pages_.cache(), c.group)), NOT_A_NUMBER),
        whole_(out_size(), UNTOUCHED) {
    const float size = (random.chance(4) ? 4.0f : 1.0f) / std::sqrt(static_cast<float>(c.head_dim));
    for (float& number : queries_) number = random.normal() * size;
    store(pages_, 0, c.length);
    attend_all(pages_, whole_);
  }

  void check_values() {
    for (int query = 0; query < case_.queries; query++)
      if (case_.queries < 20 || random_.chance(8))
        for (int head = 0; head < case_.heads(); head++) check_row(query, head);
    for (size_t i = 0; i < whole_.size(); i++)
      if (i % stride_ >= width()) check(whole_[i] == UNTOUCHED, "a number between the rows is written");
  }

  void check_partials() {
    Array<float> out(out_size(), UNTOUCHED);
    for (int head = 0; head < case_.kv_heads; head++) attend_in_parts(task(pages_, head, 0, case_.queries, out));
    same(out, "in partitions");
  }

  void check_heads_alone() {
    Array<float> out(out_size(), UNTOUCHED);
    for (int head = 0; head < case_.kv_heads; head++)
      for (int i = 0; i < case_.group; i++) {
        AttentionTask one = task(pages_, head, 0, case_.queries, out);
        one.group = 1;
        one.queries += i * case_.head_dim;
        one.out += i * case_.head_dim;
        kernels_.attend(one, scratch_.data());
      }
    same(out, "head by head");
  }

  // In other blocks, written as the chunks come, each chunk whole or in partitions.
  void check_chunks() {
    Pages pages(case_, random_);
    Array<float> out(out_size(), UNTOUCHED);
    store(pages, 0, case_.causal ? case_.start : case_.length);
    for (int first = 0; first < case_.queries;) {
      const int count = random_.chance(2) ? 1 : random_.between(1, case_.queries - first);
      if (case_.causal) store(pages, case_.start + first, case_.start + first + count);
      for (int head = 0; head < case_.kv_heads; head++) {
        const AttentionTask chunk = task(pages, head, first, count, out);
        if (random_.chance(2))
          kernels_.attend(chunk, scratch_.data());
        else
          attend_in_parts(chunk);
      }
      first += count;
    }
    same(out, "in chunks");
  }

  // A key or value that is not finite reaches the queries that see it, and no other. Comes last: it stays in the cache.
  void check_poison() {
    const int position = random_.chance(2) ? random_.below(case_.length) : case_.length - 1;
    const int kv_head = random_.below(case_.kv_heads);
    const float number = random_.pick({NOT_A_NUMBER, INFINITE, -INFINITE});
    (random_.chance(2) ? keys_ : values_)[position * case_.kv_heads + kv_head][random_.below(case_.head_dim)] = number;
    store(pages_, position, position + 1);
    Array<float> out(out_size(), UNTOUCHED);
    attend_all(pages_, out);
    for (int query = 0; query < case_.queries; query++)
      for (int head = 0; head < case_.heads(); head++) {
        const size_t at = size_t(query) * stride_ + size_t(head * case_.head_dim);
        const bool sees = position >= low(query) && position < high(query) && head / case_.group == kv_head;
        if (!sees)
          check(same_bytes(&whole_[at], &out[at], size_t(case_.head_dim)), "%g at %d reaches query %d", number,
                position, query);
        else if (number != number)
          check(any_nan(&out[at], size_t(case_.head_dim)), "a NaN at %d is lost on query %d", position, query);
      }
  }

 private:
  size_t width() const { return size_t(case_.heads()) * size_t(case_.head_dim); }
  size_t out_size() const { return size_t(case_.queries - 1) * stride_ + width(); }
  int high(int query) const { return case_.causal ? case_.start + query + 1 : case_.length; }
  int low(int query) const {
    return case_.causal && case_.window ? std::max(0, case_.start + query + 1 - case_.window) : 0;
  }

  void store(const Pages& pages, int begin, int end) {
    for (int position = begin; position < end; position++)
      for (int head = 0; head < case_.kv_heads; head++)
        kernels_.store_kv(pages.cache(), pages.blocks()[position / case_.block_size], position % case_.block_size, head,
                          keys_[position * case_.kv_heads + head], values_[position * case_.kv_heads + head]);
  }

  AttentionTask task(const Pages& pages, int kv_head, int first, int count, Array<float>& out) {
    const int64_t query_stride = static_cast<int64_t>(width()), out_stride = static_cast<int64_t>(stride_);
    const int64_t head = int64_t{kv_head} * case_.group * case_.head_dim;
    return {&pages.cache(),
            pages.blocks(),
            kv_head,
            case_.group,
            case_.start + first,
            count,
            case_.causal ? case_.start + first + count : case_.length,
            case_.causal,
            case_.window,
            case_.softcap,
            queries_.data() + first * query_stride + head,
            query_stride,
            out.data() + first * out_stride + head,
            out_stride};
  }

  void attend_all(const Pages& pages, Array<float>& out) {
    for (int head = 0; head < case_.kv_heads; head++)
      kernels_.attend(task(pages, head, 0, case_.queries, out), scratch_.data());
  }

  void attend_in_parts(const AttentionTask& task) {
    const KvCache& cache = *task.cache;
    const int last = task.length - 1, slot = last / cache.block_size * cache.slots + last % cache.block_size;
    const int count = slot / PARTITION + 1;
    const size_t size = size_t(task.num_queries) * size_t(task.group) * size_t(cache.dim + 16);
    Array<float> floats(size * size_t(count), NOT_A_NUMBER);
    std::vector<AttentionPartial> partials;
    for (int i = 0; i < count; i++) partials.push_back({floats.data() + size_t(i) * size});
    for (int begin = 0; begin < count;) {
      const int end = random_.between(begin + 1, count);
      kernels_.attend_partial(task, begin, end, &partials[size_t(begin)], scratch_.data());
      begin = end;
    }
    kernels_.combine(task, partials.data(), count);
  }

  void same(const Array<float>& out, const char* how) const {
    check(same_bytes(whole_.data(), out.data(), out.size()), "%s it is not the same", how);
  }

  void check_row(int query, int head) {
    const float* q = queries_.data() + size_t(query) * width() + size_t(head * case_.head_dim);
    const float* out = whole_.data() + size_t(query) * stride_ + size_t(head * case_.head_dim);
    const int first = low(query), kv_head = head / case_.group;
    std::vector<double> p;
    double highest = -INFINITY, sum = 0, score_error = 0;
    for (int position = first; position < high(query); position++) {
      double score = 0, size = 0;
      for (int d = 0; d < case_.head_dim; d++) {
        const double key = pages_.key(position, kv_head, d);
        score += q[d] * key;
        size += std::fabs(key);
      }
      score_error = std::fmax(score_error, query_step(q) / 2 * size);
      if (case_.softcap != 0) score = case_.softcap * std::tanh(score / case_.softcap);
      p.push_back(score);
      highest = std::fmax(highest, score);
    }
    for (double& score : p) sum += score = std::exp(score - highest);
    const double step = weight_step(p, first, kv_head) / sum;
    for (int d = 0; d < case_.head_dim; d++) {
      double expected = 0, magnitude = 0, rounding = 0;
      for (size_t i = 0; i < p.size(); i++) {
        const double product = p[i] / sum * pages_.value(first + static_cast<int>(i), kv_head, d);
        expected += product;
        magnitude += std::fabs(product);
        if (step != 0) rounding += step / 2 * std::fabs(pages_.value_number(first + static_cast<int>(i), kv_head, d));
      }
      // A weight is off by a factor of at most exp(score_error), and so is their sum.
      const double room = (2e-5 + 2 * score_error) * magnitude + rounding + 1e-9;
      check(std::fabs(out[d] - expected) <= room, "query %d head %d dim %d: %g, not %g", query, head, d, out[d],
            expected);
    }
  }

  // Keys of 8 bits may be multiplied by queries that are rounded to multiples of this.
  double query_step(const float* q) const {
    if (case_.kind != KvKind::int8) return 0;
    double highest = 0;
    for (int d = 0; d < case_.head_dim; d++) highest = std::fmax(highest, std::fabs(double{q[d]}));
    return highest / 32512;
  }

  // Values of 8 bits may be summed with weights, p times the scale of the value, rounded to multiples of this.
  double weight_step(const std::vector<double>& p, int first, int kv_head) const {
    if (case_.kind != KvKind::int8) return 0;
    double highest = 0;
    for (size_t i = 0; i < p.size(); i++)
      highest = std::fmax(highest, p[i] * pages_.value_scale(first + static_cast<int>(i), kv_head));
    return highest / 32512;
  }

  const Kernels& kernels_;
  const Case case_;
  Random& random_;
  Pages pages_;
  Rows keys_, values_;  // row: position * kv_heads + head
  Array<float> queries_;
  size_t stride_;
  Array<float> scratch_;
  Array<float> whole_;
};

// What is stored is what was given, but for the rounding of the kind.
void check_storing(const Kernels& kernels, Random& random) {
  Case c = random_case(random);
  c.length = std::min(c.length, 40);
  Pages pages(c, random);
  Rows key(1, c.head_dim), value(1, c.head_dim);
  const double room = c.kind == KvKind::f32 ? 0 : c.kind == KvKind::bf16 ? 1.0 / 256 : 0;
  for (int position = 0; position < c.length; position++)
    for (int head = 0; head < c.kv_heads; head++) {
      key.fill(0, random);
      value.fill(0, random);
      if (random.chance(8)) std::fill_n(key[0], c.head_dim, 0.0f);
      kernels.store_kv(pages.cache(), pages.blocks()[position / c.block_size], position % c.block_size, head, key[0],
                       value[0]);
      auto compare = [&](const char* what, const float* given, auto&& stored) {
        float highest = 0;
        for (int d = 0; d < c.head_dim; d++) highest = std::fmax(highest, std::fabs(given[d]));
        const double step = c.kind == KvKind::int8 ? highest / 127 * 0.50001 : 0;
        for (int d = 0; d < c.head_dim; d++) {
          const double got = stored(position, head, d);
          check(std::fabs(got - given[d]) <= room * std::fabs(given[d]) + step, "%s kind %d at %d: %g is stored as %g",
                what, static_cast<int>(c.kind), position, given[d], got);
        }
      };
      compare("key", key[0], [&](int p, int h, int d) { return pages.key(p, h, d); });
      compare("value", value[0], [&](int p, int h, int d) { return pages.value(p, h, d); });
    }
}

// One query a request, over several partitions and a ragged end: each kind in the shapes that models have.
void check_decoding(const Kernels& kernels, Random& random) {
  for (KvKind kind : {KvKind::f32, KvKind::bf16, KvKind::int8})
    for (int group : {1, 2, 3, 4, 8})
      for (int head_dim : {8, 64, 80, 96, 128}) {
        const int start = 256 * random.below(3) + random.below(256);
        const Case c{kind, 16, 2, head_dim, group, start, 1, start + 1, true, 0, 0};
        Where where("decoding: kv %d, group %d of %d dims at %d", static_cast<int>(kind), group, head_dim, start);
        Attention attention(kernels, c, random);
        attention.check_values();
        attention.check_partials();
        attention.check_heads_alone();
      }
}

}  // namespace

void check_attention(const Kernels& kernels, int effort) {
  Random random(4);
  check_decoding(kernels, random);
  for (int i = 0; i < 4 * effort; i++) check_storing(kernels, random);
  for (int i = 0; i < 20 * effort; i++) {
    const Case c = random_case(random);
    Where where(
        "case %d: kv %d, blocks of %d, %d kv heads of %d dims, group %d, start %d, %d queries, length %d, causal %d, "
        "window %d, cap %g",
        i, static_cast<int>(c.kind), c.block_size, c.kv_heads, c.head_dim, c.group, c.start, c.queries, c.length,
        c.causal, c.window, c.softcap);
    Attention attention(kernels, c, random);
    attention.check_values();
    attention.check_partials();
    attention.check_heads_alone();
    attention.check_chunks();
    attention.check_poison();
  }
}

}  // namespace tgi::tests
