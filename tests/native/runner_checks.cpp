// A small model on the threads of a pool: the logits of a row are bit for bit those of its request alone, whole and on
// one thread, whatever the batch, the chunks and the blocks, and so are the hidden states of texts to embed; and what is
// malformed is refused before it changes anything.
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "linears.h"
#include "runner.h"

namespace tgi::tests {
namespace {

constexpr int HIDDEN = 40, INNER = 56, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 10, LAYERS = 2, VOCAB = 51;
constexpr int CONTEXT = 320, SLOTS = 6;
constexpr int32_t POISON = VOCAB - 1;  // a token whose embedding is no number

// The weights, which many runners share.
struct Model {
  std::vector<std::unique_ptr<RandomLinear>> linears;
  std::vector<std::vector<float>> vectors;
  std::vector<float> embedding;

  Model(const LinearKind& kind, Random& random) : embedding(size_t(VOCAB) * HIDDEN) {
    auto add = [&](int outputs, int inputs) {
      linears.push_back(std::make_unique<RandomLinear>(kind, outputs, inputs, random.chance(2), random));
    };
    for (int layer = 0; layer < LAYERS; layer++) {
      add((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN);
      add(HIDDEN, HEADS * HEAD_DIM);
      add(2 * INNER, HIDDEN);
      add(HIDDEN, INNER);
    }
    add(VOCAB, HIDDEN);
    for (int i = 0; i < 2 * LAYERS + 1; i++) {
      vectors.emplace_back(HIDDEN);
      for (float& number : vectors.back()) number = 1 + 0.2f * random.normal();
    }
    for (size_t i = 0; i < embedding.size(); i++) embedding[i] = i / HIDDEN == POISON ? NOT_A_NUMBER : random.normal();
  }
};

enum Buffer : int32_t { X, NORMED, QKV, ATTENDED, BRANCH, EXPANDED, GATED, SCORED, SCORED_NORMED, LOGITS };

Tape make_tape(const Model& model, bool encoder = false) {
  Tape tape{};
  tape.buffers = {HIDDEN, HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD_DIM, HEADS * HEAD_DIM, HIDDEN, 2 * INNER, INNER, HIDDEN,
                  HIDDEN, VOCAB};
  for (const auto& linear : model.linears) tape.linears.push_back(&linear->view());
  tape.vectors = model.vectors;
  tape.ropes = {{{1.0f, 0.5f, 0.2f, 0.1f}, 1.0f, false}};
  tape.embedding = {reinterpret_cast<const uint8_t*>(model.embedding.data()), VOCAB, HIDDEN, WeightKind::f32};
  tape.positions = {nullptr, 0, 0, WeightKind::f32};
  auto norm = [&](int32_t in, int32_t out, int32_t vector) {
    tape.ops.push_back(
        {OpCode::norm, {in, 0, out, 0, HIDDEN, vector, -1, static_cast<int32_t>(Norm::rms)}, {1e-5f, 0}});
  };
  auto linear = [&](int32_t in, int32_t index, int32_t out) {
    tape.ops.push_back({OpCode::linear, {in, index, out, -1, -1, -1, -1, -1}, {0, 0}});
  };
  tape.ops.push_back({OpCode::embed, {X, 0, -1, -1, -1, -1, -1, -1}, {1, 0}});
  for (int32_t i = 0; i < LAYERS; i++) {
    norm(X, NORMED, 2 * i);
    linear(NORMED, 4 * i, QKV);
    if (i == 1)  // over all heads: a row-wise op between two that need all threads
      tape.ops.push_back({OpCode::norm, {QKV, 0, QKV, 0, HEADS * HEAD_DIM, 0, -1, 0}, {1e-5f, 0}});
    tape.ops.push_back({OpCode::qkv, {QKV, i, 0, -1, -1, -1, -1, 0}, {1e-5f, 0.3f}});
    tape.ops.push_back({OpCode::attend, {QKV, ATTENDED, i, i == 0 ? 0 : 30, -1, -1, -1, -1}, {i == 0 ? 0 : 5.0f, 0}});
    linear(ATTENDED, 4 * i + 1, BRANCH);
    tape.ops.push_back({OpCode::add, {X, BRANCH, HIDDEN, -1, -1, -1, -1, -1}, {1, 0}});
    norm(X, NORMED, 2 * i + 1);
    linear(NORMED, 4 * i + 2, EXPANDED);
    tape.ops.push_back(
        {OpCode::activate, {EXPANDED, GATED, INNER, static_cast<int32_t>(Activation::silu), 1, -1, -1, -1}, {0, 0}});
    linear(GATED, 4 * i + 3, BRANCH);
    tape.ops.push_back({OpCode::add, {X, BRANCH, HIDDEN, -1, -1, -1, -1, -1}, {1, 0}});
  }
  tape.ops.push_back({OpCode::gather, {X, SCORED, HIDDEN, -1, -1, -1, -1, -1}, {0, 0}});
  if (encoder) return tape;
  norm(SCORED, SCORED_NORMED, 2 * LAYERS);
  linear(SCORED_NORMED, 4 * LAYERS, LOGITS);
  tape.ops.push_back({OpCode::scale_cap, {LOGITS, VOCAB, -1, -1, -1, -1, -1, -1}, {1, 30}});
  return tape;
}

// A request: its tokens, how far it is computed, where its cache lies.
struct Request {
  int32_t slot = 0;
  std::vector<int32_t> tokens;
  int32_t computed = 0;
  std::vector<int32_t> blocks;
  std::vector<float> expected;  // the logits of every row
};

class Machine {
 public:
  Machine(const Model& model, const Kernels& kernels, KvKind kv, int block_size, int threads, bool encoder = false)
      : pool_(threads),
        block_size_(block_size),
        runner_(pool_, kernels,
                Program(make_tape(model, encoder),
                        {LAYERS, HEADS, KV_HEADS, HEAD_DIM, kv, num_blocks(), block_size, SLOTS, CONTEXT, VOCAB,
                         EmbedRows::all})) {
    for (int32_t block = num_blocks() - 1; block > 0; block--) free_.push_back(block);
  }

  Runner& runner() { return runner_; }

  void enter(const Request& request) {
    std::vector<int64_t> tokens(request.tokens.begin(), request.tokens.end());
    tokens.push_back(0);  // so that every row comes before a token of the prompt, and is looked at
    runner_.slots().enter(request.slot, tokens, static_cast<int64_t>(tokens.size()), {});
  }

  Chunk chunk(Request& request, int count, Random& random) {
    const int end = request.computed + count;
    while (static_cast<int>(request.blocks.size()) * block_size_ < end) {
      std::swap(free_.back(), free_[size_t(random.below(static_cast<int>(free_.size())))]);
      request.blocks.push_back(free_.back());
      free_.pop_back();
    }
    Chunk made{request.slot,
               request.computed,
               {request.tokens.begin() + request.computed, request.tokens.begin() + end},
               0,
               request.blocks,
               false,
               true};
    request.computed = end;
    return made;
  }

  // Every block then holds keys and values that are no numbers.
  void poison(Random& random) {
    Request request;
    const size_t most = size_t(CONTEXT / block_size_);
    while (!free_.empty()) {
      request.blocks.assign(free_.end() - static_cast<int64_t>(std::min(most, free_.size())), free_.end());
      free_.resize(free_.size() - request.blocks.size());
      used_.insert(used_.end(), request.blocks.begin(), request.blocks.end());
      request.tokens.assign(request.blocks.size() * size_t(block_size_), POISON);
      request.computed = 0;
      enter(request);
      runner_.logits({chunk(request, static_cast<int>(request.tokens.size()), random)});
    }
    free_.swap(used_);
  }

 private:
  int num_blocks() const { return SLOTS * (CONTEXT / block_size_ + 1); }

  Pool pool_;
  int block_size_;
  Runner runner_;
  std::vector<int32_t> free_, used_;
};

std::vector<Request> make_requests(Random& random) {
  std::vector<Request> requests(SLOTS - 1);
  for (size_t i = 0; i < requests.size(); i++) {
    requests[i].slot = static_cast<int32_t>(i) + 1;
    requests[i].tokens.resize(size_t(i == 0 ? 300 : random.between(1, 40)));
    for (int32_t& token : requests[i].tokens) token = random.below(i == 1 ? VOCAB : POISON);
  }
  return requests;
}

// All requests in random chunks and batches.
void walk(Machine& machine, std::vector<Request>& requests, Random& random) {
  for (const Request& request : requests) machine.enter(request);
  for (bool left = true; left;) {
    std::vector<Chunk> chunks;
    std::vector<const float*> expected;
    left = false;
    for (Request& request : requests) {
      const int rest = static_cast<int>(request.tokens.size()) - request.computed;
      left = left || rest > 0;
      if (rest == 0 || random.chance(3)) continue;
      expected.push_back(request.expected.data() + size_t(request.computed) * VOCAB);
      chunks.push_back(machine.chunk(request,
                                     random.chance(3)   ? rest
                                     : random.chance(2) ? 1
                                                        : random.between(1, rest),
                                     random));
    }
    const std::vector<Chunk> asked = chunks;
    const std::vector<float> logits = machine.runner().logits(std::move(chunks));
    const float* row = logits.data();
    for (size_t i = 0; i < asked.size(); i++) {
      const size_t count = asked[i].tokens.size() * VOCAB;
      check(same_bytes(row, expected[i], count), "the logits of slot %d from %d on are not those of the request alone",
            asked[i].slot, asked[i].start);
      row += count;
    }
  }
}

void check_laws(const Kernels& kernels, const LinearKind& kind, KvKind kv, Random& random) {
  const int block_size = random.pick({1, 3, 8, 16, 32});
  const Model model(kind, random);
  std::vector<Request> requests = make_requests(random);
  for (Request& request : requests) {
    Machine alone(model, kernels, kv, block_size, 1);
    alone.enter(request);
    request.expected = alone.runner().logits({alone.chunk(request, static_cast<int>(request.tokens.size()), random)});
    check(request.slot == 2 || !any_nan(request.expected.data(), request.expected.size()), "a request alone has a NaN");
  }
  for (int threads : {1, 2, 3}) {
    Where where("blocks of %d, %d threads", block_size, threads);
    Machine machine(model, kernels, kv, block_size, threads);
    machine.poison(random);
    for (Request& request : requests) request.computed = 0, request.blocks.clear();
    walk(machine, requests, random);
  }
}

// Texts to embed, of an encoder or beside answers of a decoder, in batches that threads share.
void check_embedding(const Kernels& kernels, const LinearKind& kind, KvKind kv, bool encoder, Random& random) {
  const int block_size = random.pick({1, 3, 8, 16, 32});
  const Model model(kind, random);
  std::vector<Request> requests = make_requests(random);
  requests[4].tokens.resize(1);
  auto text = [&](Machine& machine, Request& request) {
    machine.enter(request);
    Chunk chunk = machine.chunk(request, static_cast<int>(request.tokens.size()), random);
    chunk.prompt_logprobs = false;
    chunk.embed = true;
    chunk.bidirectional = encoder;
    return chunk;
  };
  for (Request& request : requests) {
    Machine alone(model, kernels, kv, block_size, 1, encoder);
    request.expected = alone.runner().step({text(alone, request)})[0].hidden;
    check(request.expected.size() == request.tokens.size() * HIDDEN, "a text alone has not all its rows");
  }
  for (int threads : {1, 2, 3}) {
    Where where("embedding with blocks of %d, %d threads", block_size, threads);
    Machine machine(model, kernels, kv, block_size, threads, encoder);
    if (!encoder) machine.poison(random);
    for (Request& request : requests) request.blocks.clear();
    for (int round = 0; round < 6; round++) {
      std::vector<Chunk> chunks;
      std::vector<const Request*> texts;
      for (Request& request : requests) {
        request.computed = 0;
        if (random.chance(3)) continue;
        if (encoder || random.chance(2)) {
          chunks.push_back(text(machine, request));
          texts.push_back(&request);
        } else {
          machine.enter(request);
          chunks.push_back(machine.chunk(request, static_cast<int>(request.tokens.size()), random));
          texts.push_back(nullptr);
        }
      }
      const std::vector<ChunkChoices> results = machine.runner().step(std::move(chunks));
      for (size_t i = 0; i < texts.size(); i++) {
        const bool right = texts[i] ? results[i].hidden.size() == texts[i]->expected.size() &&
                                          same_bytes(results[i].hidden.data(), texts[i]->expected.data(),
                                                     texts[i]->expected.size())
                                    : results[i].hidden.empty() && !results[i].prompt.empty();
        check(right, "the hidden states of text %zu are not those of the text alone", i);
      }
    }
  }
}

void check_refusals(const Kernels& kernels, Random& random) {
  const Model model({WeightKind::f32, 0, false}, random);
  Machine machine(model, kernels, KvKind::f32, 8, 2);
  Request request;
  request.slot = 3;
  request.tokens = {1, 2, 3, 4, 5};
  machine.enter(request);
  const Chunk good = machine.chunk(request, 5, random);
  const std::vector<float> before = machine.runner().logits({good});
  const std::vector<std::function<void(Chunk&)>> spoilers = {
      [](Chunk& c) { c.slot = 4; },           [](Chunk& c) { c.slot = SLOTS; },
      [](Chunk& c) { c.slot = -1; },          [](Chunk& c) { c.start = -1; },
      [](Chunk& c) { c.start = 4; },          [](Chunk& c) { c.start = CONTEXT; },
      [](Chunk& c) { c.start = 2147483647; }, [](Chunk& c) { c.tokens[4] = VOCAB; },
      [](Chunk& c) { c.tokens[0] = -1; },     [](Chunk& c) { c.tokens.clear(); },
      [](Chunk& c) { c.blocks[0] = -1; },     [](Chunk& c) { c.blocks[0] = 1 << 30; },
      [](Chunk& c) { c.blocks.clear(); },     [](Chunk& c) { c.num_draft = 5; },
      [](Chunk& c) { c.num_draft = -1; }};
  for (size_t i = 0; i < spoilers.size(); i++) {
    Chunk bad = good;
    spoilers[i](bad);
    Chunk other = good;
    other.tokens.assign(5, 9);  // would write, were it not for the one beside it
    bool refused = false;
    try {
      machine.runner().logits({other, bad});
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    check(refused, "malformed chunk %zu is not refused", i);
  }
  Chunk last = good;
  last.start = 4;
  last.tokens = {5};
  const std::vector<float> after = machine.runner().logits({last});
  check(same_bytes(after.data(), before.data() + 4 * VOCAB, VOCAB), "what was refused changed the cache");
  check(machine.runner().step({}).empty(), "a step of nothing gives something");
}

}  // namespace

void check_runner(const Kernels& kernels, int effort) {
  Random random(7 + std::strlen(kernels.name));  // other kinds for each instruction set
  check_refusals(kernels, random);
  const std::vector<LinearKind>& kinds = linear_kinds();
  for (int i = 0; i < (effort + 1) / 2; i++) {
    const LinearKind& kind = kinds[size_t(random.below(static_cast<int>(kinds.size())))];
    const KvKind kv = static_cast<KvKind>(i % 3);
    Where where("kind %d group %d, kv %d", static_cast<int>(kind.kind), kind.group, static_cast<int>(kv));
    check_laws(kernels, kind, kv, random);
    check_embedding(kernels, kind, kv, i % 2 == 0, random);
    check_embedding(kernels, kind, kv, i % 2 == 1, random);
  }
}

}  // namespace tgi::tests
