#include "sampler_bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "isa.h"
#include "sampler/penalties.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tgi {

SamplingParams sampling_params(nb::handle params) {
  SamplingParams result;
  result.temperature = nb::cast<double>(params.attr("temperature"));
  result.top_k = nb::cast<int64_t>(params.attr("top_k"));
  result.top_p = nb::cast<double>(params.attr("top_p"));
  result.typical_p = nb::cast<double>(params.attr("typical_p"));
  result.min_p = nb::cast<double>(params.attr("min_p"));
  result.repetition_penalty = nb::cast<double>(params.attr("repetition_penalty"));
  result.frequency_penalty = nb::cast<double>(params.attr("frequency_penalty"));
  result.relative_frequency = nb::cast<bool>(params.attr("relative_frequency"));
  result.presence_penalty = nb::cast<double>(params.attr("presence_penalty"));
  for (nb::handle item : params.attr("logit_bias"))
    result.bias.push_back(nb::cast<std::pair<int64_t, double>>(item));
  result.top_n = nb::cast<int32_t>(params.attr("top_n_tokens"));
  result.logprobs = nb::cast<bool>(params.attr("logprobs"));
  result.raw_logprobs = nb::cast<bool>(params.attr("raw_logprobs"));
  nb::object seed = params.attr("seed");
  if (!seed.is_none()) result.seed = nb::cast<uint64_t>(seed);
  else if (result.temperature > 0) throw nb::value_error("a request gets its seed when it is admitted");
  return result;
}

namespace {

using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Tokens = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A row as the kernels want it: aligned, with room after it.
using AlignedRow = std::unique_ptr<float, decltype(&std::free)>;

AlignedRow aligned(const Row& logits) {
  AlignedRow row((float*)std::aligned_alloc(64, (logits.size() + 15) / 16 * 64), std::free);
  std::copy_n(logits.data(), logits.size(), row.get());
  return row;
}

// With the interface of engine.sample.Sampler, so that the same tests run against both.
class PythonSampler {
 public:
  PythonSampler(int vocab_size, std::optional<int> num_tokens, const std::string& isa)
      : sampler_(vocab_size, num_tokens.value_or(vocab_size), find_kernels(isa)), vocab_size_(vocab_size) {}

  nb::object sample(const Row& logits, nb::handle params, nb::handle tokens, int64_t prompt_len,
                    const std::optional<Words>& allowed) const {
    if (allowed && allowed->size() * 32 < (size_t)vocab_size_)
      throw nb::value_error("`allowed` has fewer bits than the vocabulary has tokens");
    const AlignedRow row = aligned(checked(logits));
    const SamplingParams read = sampling_params(params);
    nb::module_ numpy = nb::module_::import_("numpy");
    auto known = nb::cast<Tokens>(numpy.attr("ascontiguousarray")(tokens, numpy.attr("int64")));
    if (counts_tokens(read))
      for (size_t i = 0; i < known.size(); i++) check(known.data()[i]);
    for (auto [token, value] : read.bias) check(token);
    Choice choice;
    {
      nb::gil_scoped_release free;
      choice = sampler_.sample(row.get(), read, known.data(), (int64_t)known.size(), prompt_len, scratch(),
                               allowed ? allowed->data() : nullptr);
    }
    return nb::module_::import_("engine.sample").attr("Choice")(fit(choice).token, choice.logprob, top(choice));
  }

  nb::object score(const Row& logits, int64_t token, int top_n) const {
    const AlignedRow row = aligned(checked(logits));
    Choice choice = sampler_.score(row.get(), token, top_n, scratch());
    return nb::make_tuple(fit(choice).logprob, top(choice));
  }

 private:
  const Row& checked(const Row& logits) const {
    if ((int)logits.size() != vocab_size_) throw nb::value_error("the row is not as long as the vocabulary");
    return logits;
  }

  void check(int64_t token) const {
    if (token < 0 || token >= vocab_size_) throw nb::index_error("a token is not in the vocabulary");
  }

  // Used again by every call of a thread, as in the executor: no trace of a call may be left in it.
  static Sampler::Scratch& scratch() {
    static thread_local Sampler::Scratch scratch;
    return scratch;
  }

  static const Choice& fit(const Choice& choice) {
    if (choice.fault == Fault::none) return choice;
    nb::object error = nb::module_::import_("engine.errors").attr("GenerationFailed");
    PyErr_SetString(error.ptr(), message(choice.fault));
    throw nb::python_error();
  }

  static nb::tuple top(const Choice& choice) {
    nb::object score = nb::module_::import_("engine.types").attr("TokenScore");
    nb::list list;
    for (auto [token, logprob] : choice.top) list.append(score(token, logprob));
    return nb::tuple(list);
  }

  Sampler sampler_;
  int vocab_size_;
};

}  // namespace

void bind_sampler(nb::module_& module) {
  nb::class_<PythonSampler>(module, "Sampler", "The sampler of this runtime, for tests: see engine.sample.Sampler.")
      .def(nb::init<int, std::optional<int>, const std::string&>(), "vocab_size"_a, "num_tokens"_a = nb::none(),
           "isa"_a = "")
      .def("sample", &PythonSampler::sample, "logits"_a, "params"_a, "tokens"_a, "prompt_len"_a,
           "allowed"_a = nb::none())
      .def("score", &PythonSampler::score, "logits"_a, "token"_a, "top_n"_a = 0);
}

}  // namespace tgi
