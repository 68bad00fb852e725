"""Which function of the library answers which vector: one plain dict, algorithm -> adapter(inputs, folder) -> results.

An adapter reads everything from `inputs`, converts layouts and calls the library; what it returns is compared with the
vector's `expected` key by key.  `NotBuilt` says that the library has no such variant (yet).
"""

from collections.abc import Callable
from pathlib import Path

from tests.vectors.adapters_adapting import ADAPTING
from tests.vectors.adapters_alignment import ALIGNMENT
from tests.vectors.adapters_classic import CLASSIC
from tests.vectors.adapters_curation import CURATION
from tests.vectors.adapters_data import DATA
from tests.vectors.adapters_dedup import DEDUP
from tests.vectors.adapters_encoders import ENCODERS
from tests.vectors.adapters_learning import LEARNING
from tests.vectors.adapters_metrics import METRICS
from tests.vectors.adapters_model import MODEL
from tests.vectors.adapters_positions import POSITIONS
from tests.vectors.adapters_preference import PREFERENCE
from tests.vectors.adapters_reinforcement import REINFORCEMENT
from tests.vectors.adapters_retrieval import RETRIEVAL
from tests.vectors.adapters_reward import REWARD
from tests.vectors.adapters_rewards import REWARDS
from tests.vectors.adapters_search import SEARCH
from tests.vectors.adapters_seq2seq import SEQ2SEQ
from tests.vectors.adapters_text import TEXT

Adapter = Callable[[dict, Path], dict]

ADAPTERS: dict[str, Adapter] = ADAPTING | CURATION | CLASSIC | METRICS | MODEL | POSITIONS | LEARNING | \
    PREFERENCE | TEXT | DATA | SEARCH | REWARD | REWARDS | RETRIEVAL | ALIGNMENT | REINFORCEMENT | DEDUP | \
    SEQ2SEQ | ENCODERS

# What `expected` holds beside results: parameters of the question, given to the adapter as inputs.
ASKED = {
    "bpe_train": lambda expected: {"words": list(expected["encoded"])},
    "hf_generate": lambda expected: {"max_new_tokens": len(expected["greedy_new_tokens"]),
                                     "eos_token_id": expected["greedy_with_eos"]["eos_token_id"],
                                     "beams": [{key: value for key, value in beam.items() if "sequences" not in key}
                                               for beam in expected["beam"]]},
}

# Results whose order carries no meaning: compared sorted.
UNORDERED = {"packing_bfd": ("fill",)}
