"""The sampling laws: how one row of logits becomes one token. Plain numpy, the oracle for every faster sampler.

The steps, in this fixed order:

     1. repetition penalty   over the prompt and the output
     2. frequency penalty    over the output; TGI's over prompt and output, divided by their length
     3. presence penalty     over the output
     4. logit bias
     5. grammar              what it does not allow is masked
     6. ids without a token  masked: a padded vocabulary has more rows than the tokenizer has tokens
     7. temperature          0 stops here: the highest score, the lowest id among equals
     8. top-k
     9. top-p
    10. typical-p
    11. min-p
    12. the choice           argmax(score + Gumbel noise), see `noise`

Each filter sees the distribution renormalised over what the ones before it left. The order of TGI's parameters
is TGI's. The others come where they disturb those least. Bias follows the penalties, so that a caller's `-100`
is not scaled by them. Min-p comes last: it compares with the most probable token only, which top-k and top-p always
keep, so it means the same before and after them, but coming first it would shrink the mass that top-p counts.
llama.cpp orders these as we do (min-p after top-k, typical-p and top-p), transformers too but for typical-p, which
comes after min-p there; vLLM applies min-p before top-k and top-p.

Logits arrive as float32; every step after that is IEEE float64. Two runtimes with the same logits then differ at most
in the last bits of `log` and `exp`, and choose the same token unless two scores agree to about 15 digits.

Log probabilities are those of the distribution drawn from, after all steps (TGI's meaning: a filtered token has minus
infinity), or with `raw_logprobs` those of the model (OpenAI's), also where a grammar left little of it. Ids without a
token have no part in either.
"""

from engine.sample.sampler import Choice, Sampler
from engine.sample.verify import accept

__all__ = ["Choice", "Sampler", "accept"]
