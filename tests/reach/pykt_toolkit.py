"""pyKT: knowledge tracing, every model built by the toolkit's own factory.

Questions and answers come in whole sequences; each model gets the pieces its own evaluation gives
it. Its concept rows are made by its own preprocessing.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from reach.cases import HONEST, LEAK, Adapter, Built, Case
from reach.checkouts import checkout
from torch import Tensor
from torch.nn.functional import one_hot

from kt_forecast.audit import kt

LIBRARY = "pyKT"
STEPS, QUESTIONS, CONCEPTS, GAPS = 13, 17, 11, 5
ROWS = 3
SHARP = 30.0

DATA = {
    "num_q": QUESTIONS,
    "num_c": CONCEPTS,
    "num_rgap": GAPS,
    "num_sgap": GAPS,
    "num_pcount": GAPS,
    "num_at": GAPS,
    "num_it": GAPS,
    "max_concepts": 2,
    "emb_path": "",
    "dpath": "",
}


def version() -> str:
    """Return the commit of the checkout; raise `LookupError` if there is none."""
    folder, commit = checkout("KT_FORECAST_PYKT", "pykt")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return commit


def drawn(high: int, *shape: int) -> Tensor:
    """Return random integers below a bound."""
    generator = torch.Generator().manual_seed(high)
    return torch.randint(high, shape, generator=generator)


def built(
    name: str,
    settings: dict[str, Any],
    use: Callable[..., Tensor],
    *,
    embedding: str = "qid",
    extra: Callable[[], dict[str, Tensor]] = dict,
) -> Built:
    """Return a model of the toolkit under the contract of knowledge tracing."""
    from pykt.models.init_model import init_model

    torch.manual_seed(0)
    model = init_model(name, settings, DATA, embedding)
    batch = {
        "question": drawn(QUESTIONS, ROWS, STEPS),
        "concepts": drawn(CONCEPTS, ROWS, STEPS),
        "response": drawn(2, ROWS, STEPS),
        **extra(),
    }
    asked = tuple(name for name in batch if name != "response")
    contract = kt(asked=asked, answered=("response",))
    return Built(Adapter(model, use), batch, contract)


def rows_of_concepts() -> tuple[dict[str, Tensor], Tensor]:
    """Return a batch whose questions of two concepts became two rows, and each row's event."""
    import pandas as pd
    from pykt.preprocess.split_datasets import extend_multi_concepts

    questions = drawn(QUESTIONS, ROWS, STEPS)
    answers = drawn(2, ROWS, STEPS)
    events = [",".join(map(str, range(STEPS)))] * ROWS
    concepts = [
        ",".join(f"{int(q) % 5}_{5 + int(q) % 6}" if q % 2 else f"{int(q) % 5}" for q in row)
        for row in questions
    ]
    table = pd.DataFrame(
        {
            "uid": range(ROWS),
            "questions": [",".join(map(str, row.tolist())) for row in questions],
            "concepts": concepts,
            "responses": [",".join(map(str, row.tolist())) for row in answers],
            "events": events,
        }
    )
    rows, _ = extend_multi_concepts(table, {"questions", "concepts", "responses"})
    read = {
        key: [[int(x) for x in row.split(",")] for row in rows[key]]
        for key in ("questions", "concepts", "responses", "events")
    }
    steps = min(map(len, read["events"]))
    cut = {key: torch.tensor([row[:steps] for row in value]) for key, value in read.items()}
    batch = {
        "question": cut["questions"],
        "concepts": cut["concepts"],
        "response": cut["responses"],
    }
    return batch, cut["events"]


def sharpened(build: Callable[[], Built]) -> Built:
    """Return a model whose attention is so sharp that its least weights underflow to zero."""
    made = build()
    for name, parameter in made.model.named_parameters():
        if "k_linear" in name:
            parameter.data *= SHARP
    return made


def on_concept_rows(build: Callable[[], Built]) -> Built:
    """Return a model on concept rows, under the clock of events."""
    made = build()
    batch, event = rows_of_concepts()
    return Built(made.model, batch, kt(event))


# How each model is called: as pyKT's own evaluation does it.


def first(y: Tensor, steps: int) -> Tensor:
    """Return predictions of all steps, where the first has none."""
    missing = steps - y.shape[1]
    return torch.cat([torch.full((len(y), missing), 0.5).to(y), y], 1)


def next_of_all(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """A prediction for every concept, read where the next one is."""
    out = model(concepts[:, :-1], response[:, :-1])
    y = out[0] if isinstance(out, tuple) else out
    return first((y * one_hot(concepts[:, 1:], CONCEPTS)).sum(-1), concepts.shape[1])


def next_asked(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """Past concepts and answers, and the next concept as a query."""
    y = model(concepts[:, :-1], response[:, :-1], concepts[:, 1:])
    return first(y, concepts.shape[1])


def whole(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """Concepts and answers of all steps; the model shifts them."""
    return model(concepts, response)


def whole_but_first(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """The same, where the model leaves out the first step."""
    return first(model(concepts, response), concepts.shape[1])


def with_questions(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """Concepts, answers and questions of all steps."""
    return model(concepts, response, question)[0]


def pieces(question: Tensor, concepts: Tensor, response: Tensor) -> dict[str, Tensor]:
    """Return the toolkit's own batch: all steps but the last, and all but the first."""
    real = torch.ones(len(question), question.shape[1] - 1, dtype=torch.bool)
    times = torch.arange(question.shape[1]).expand(question.shape) * 60_000
    found = {"qseqs": question, "cseqs": concepts, "rseqs": response, "tseqs": times}
    return (
        {key: x[:, :-1] for key, x in found.items()}
        | {f"shft_{key}": x[:, 1:] for key, x in found.items()}
        | {"masks": real, "smasks": real}
    )


def as_batch(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """The toolkit's own batch."""
    out = model(pieces(question, concepts, response))
    y = out[0] if isinstance(out, tuple) else out
    return first(y, question.shape[1])


def next_of_batch(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """The toolkit's own batch; a prediction for every concept."""
    y = model(pieces(question, concepts, response))
    return first((y * one_hot(concepts[:, 1:], CONCEPTS)).sum(-1), concepts.shape[1])


def saint(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """All questions and concepts, past answers."""
    return model(question, concepts, response[:, :-1])


def transformer(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """DTransformer's prediction."""
    return model.predict(concepts, response, question)[0]


def by_question(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """Models of whole questions, several concepts each."""
    several = torch.stack([concepts, torch.full_like(concepts, -1)], -1)
    y = model.predict_one_step(pieces(question, several, response))
    return first(y, question.shape[1])


def with_gaps(
    model: Any, question: Tensor, concepts: Tensor, response: Tensor, gaps: Tensor
) -> Tensor:
    """The toolkit's batch, and how long ago a concept was practised, which the asking tells."""
    parts = dict.fromkeys(("rgaps", "sgaps", "pcounts"), gaps)
    given = {key: x[:, :-1] for key, x in parts.items()}
    given |= {f"shft_{key}": x[:, 1:] for key, x in parts.items()}
    y = model(pieces(question, concepts, response), given)
    return first(y[0] if isinstance(y, tuple) else y, question.shape[1])


def forgetting(
    model: Any, question: Tensor, concepts: Tensor, response: Tensor, gaps: Tensor
) -> Tensor:
    """DKT-forget: a prediction for every concept, with gaps."""
    parts = dict.fromkeys(("rgaps", "sgaps", "pcounts"), gaps)
    given = {key: x[:, :-1] for key, x in parts.items()}
    given |= {f"shft_{key}": x[:, 1:] for key, x in parts.items()}
    y = model(concepts[:, :-1], response[:, :-1], given)
    return first((y * one_hot(concepts[:, 1:], CONCEPTS)).sum(-1), concepts.shape[1])


def learning(
    model: Any, question: Tensor, concepts: Tensor, response: Tensor, gaps: Tensor
) -> Tensor:
    """LPKT: questions, answers, and the time between them."""
    return model(question, response, gaps)


def hawkes(model: Any, question: Tensor, concepts: Tensor, response: Tensor) -> Tensor:
    """HawkesKT: concepts, questions, times, answers."""
    times = torch.arange(question.shape[1]).expand(question.shape) * 60_000
    return model(concepts, question, times, response)


def difficult(
    model: Any, question: Tensor, concepts: Tensor, response: Tensor, gaps: Tensor
) -> Tensor:
    """DIMKT: questions and concepts with their difficulties."""
    now = (question[:, :-1], concepts[:, :-1], gaps[:, :-1], gaps[:, :-1], response[:, :-1])
    later = (question[:, 1:], concepts[:, 1:], gaps[:, 1:], gaps[:, 1:])
    return first(model(*now, *later), question.shape[1])


def gaps() -> dict[str, Tensor]:
    """Return how long ago a concept was practised, in classes."""
    return {"gaps": drawn(GAPS, ROWS, STEPS)}


@contextmanager
def without_cuda() -> Iterator[None]:
    """Let ``cuda()`` do nothing: some models call it wherever they run."""
    with patch.object(torch.Tensor, "cuda", lambda x, *_, **__: x):
        yield


ATTENTION = {
    "d_model": 8,
    "n_blocks": 1,
    "dropout": 0.1,
    "d_ff": 16,
    "final_fc_dim": 8,
    "num_attn_heads": 2,
}
LONG = ATTENTION | {"seq_len": 2 * STEPS, "final_fc_dim2": 8}
MEMORY = {"dim_s": 8, "size_m": 4, "dropout": 0.1}
PLUS = {"lambda_r": 0.1, "lambda_w1": 0.1, "lambda_w2": 0.1}
ADVERSARIAL = {"skill_dim": 8, "answer_dim": 8, "hidden_dim": 8, "attention_dim": 8}
BLOCKS = {"seq_len": STEPS, "emb_size": 8, "num_attn_heads": 2, "dropout": 0.1}
LEARNING = {"d_a": 6, "d_e": 8, "d_k": 8}

CUDA = "Tensor.cuda does nothing: the model calls it wherever it runs"
ROWS_LEAK = "survey of leaks, finding of concept rows; KTbench, arXiv 2403.15304"

DKT = partial(built, "dkt", {"emb_size": 8}, next_of_all)
AKT = partial(built, "akt", ATTENTION, with_questions)
SPARSE = partial(built, "sparsekt", LONG | {"k_index": 3}, as_batch, embedding="qid_sparseattn")
SIMPLE = partial(built, "simplekt", LONG, as_batch)

PROVED = "survey of leaks, abstract run on real modules"

CASES = (
    Case("DKT", DKT, HONEST, PROVED),
    Case("DKT+", partial(built, "dkt+", {"emb_size": 8} | PLUS, next_of_all)),
    Case(
        "DKT-forget",
        partial(built, "dkt_forget", {"emb_size": 8}, forgetting, extra=gaps),
    ),
    Case("DKVMN", partial(built, "dkvmn", MEMORY, whole), HONEST, PROVED),
    Case("DeepIRT", partial(built, "deep_irt", MEMORY, whole), HONEST, PROVED),
    Case(
        "SKVMN",
        partial(built, "skvmn", MEMORY, whole),
        LEAK,
        "found by the audit, then read: a kept state is overwritten at the next step",
    ),
    Case("SAKT", partial(built, "sakt", BLOCKS | {"num_en": 1}, next_asked), HONEST, PROVED),
    Case("SAINT", partial(built, "saint", BLOCKS | {"n_blocks": 1}, saint), HONEST, PROVED),
    Case(
        "KQN",
        partial(
            built,
            "kqn",
            {"n_hidden": 8, "n_rnn_hidden": 8, "n_mlp_hidden": 8, "dropout": 0.1},
            next_asked,
        ),
    ),
    Case(
        "ATKT",
        partial(built, "atkt", ADVERSARIAL, next_of_all),
        LEAK,
        "survey of leaks; ATKT issue 1: a softmax over the whole sequence",
    ),
    Case("ATKT, fixed", partial(built, "atktfix", ADVERSARIAL, next_of_all), HONEST, PROVED),
    Case("AKT", AKT, HONEST, PROVED),
    Case("simpleKT", SIMPLE, HONEST, PROVED),
    Case(
        "sparseKT, top k",
        SPARSE,
        open="where weights underflow to zero, steps ahead tie with the chosen ones",
    ),
    Case(
        "sparseKT, top k, sharp attention",
        partial(sharpened, SPARSE),
        LEAK,
        "found where no proof came: weights of zero tie with those of steps ahead",
    ),
    Case(
        "sparseKT, accumulated",
        partial(
            built,
            "sparsekt",
            LONG | {"sparse_ratio": 0.8},
            as_batch,
            embedding="qid_accumulative_attn",
        ),
        open="that a zero is always masked again is a relation between values",
    ),
    Case("CSKT", partial(built, "cskt", LONG, as_batch)),
    Case("UKT", partial(built, "ukt", LONG, as_batch, embedding="stoc_qid")),
    Case(
        "stableKT",
        partial(built, "stablekt", LONG, as_batch, embedding="qid_woha"),
        changed=CUDA,
        context=without_cuda,
    ),
    Case(
        "FoLiBiKT",
        partial(
            built, "folibikt", ATTENTION | {"seq_len": STEPS}, with_questions, embedding="qid_alibi"
        ),
        changed=CUDA,
        context=without_cuda,
    ),
    Case(
        "extraKT",
        partial(
            built, "extrakt", ATTENTION | {"seq_len": STEPS}, with_questions, embedding="qid_alibi"
        ),
        changed=CUDA,
        context=without_cuda,
    ),
    Case("RobustKT", partial(built, "robustkt", ATTENTION, with_questions)),
    Case(
        "DTransformer",
        partial(
            built,
            "dtransformer",
            {"d_model": 8, "d_ff": 16, "num_attn_heads": 2, "n_know": 4, "n_blocks": 1},
            transformer,
        ),
    ),
    Case("ReKT", partial(built, "rekt", {"d": 8, "dropout": 0.1}, as_batch)),
    Case("AT-DKT", partial(built, "atdkt", {"emb_size": 8, "seq_len": STEPS}, next_of_batch)),
    Case(
        "datAKT",
        partial(built, "datakt", LONG, with_gaps, extra=gaps),
    ),
    Case(
        "HawkesKT",
        partial(built, "hawkes", {"emb_size": 8, "time_log": 5.0}, hawkes),
        changed=CUDA,
        context=without_cuda,
    ),
    Case(
        "DIMKT",
        partial(
            built,
            "dimkt",
            {
                "dropout": 0.1,
                "emb_size": 8,
                "batch_size": ROWS,
                "num_steps": STEPS,
                "difficult_levels": GAPS,
            },
            difficult,
            extra=gaps,
        ),
        changed=CUDA,
        context=without_cuda,
    ),
    Case("qDKT", partial(built, "qdkt", {"emb_size": 8}, by_question, embedding="qaid_qc")),
    Case("QIKT", partial(built, "qikt", {"emb_size": 8}, by_question, embedding="iekt")),
    Case("IEKT", partial(built, "iekt", {"emb_size": 8}, by_question, embedding="qc_merge")),
    Case("DKT, concept rows", partial(on_concept_rows, DKT), LEAK, ROWS_LEAK),
    Case("AKT, concept rows", partial(on_concept_rows, AKT), LEAK, ROWS_LEAK),
    Case("simpleKT, concept rows", partial(on_concept_rows, SIMPLE), LEAK, ROWS_LEAK),
)
