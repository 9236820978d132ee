"""Speculative decoding: a draft proposes, one pass of the target verifies, the answer stays.

`speculate` (request.py) is `generate` with a draft. Drafts: PromptLookup, SuffixIndex, ModelDraft
(a smaller model, or the target with layers skipped), LearnedHead (head.py;
trained by train_head.py on text of own_text.py); Chooser takes the better of a copy and the head.
Rules: verify.py. How many tokens to draft, from measured row costs and running acceptance:
control.py, predict.py, costs.py. `replay` judges a draft on an answer that is known.
"""

from labkit.optimize.speculative.accounting import Accounting
from labkit.optimize.speculative.chooser import Chooser
from labkit.optimize.speculative.control import Acceptance, Adaptive, Control, Fixed
from labkit.optimize.speculative.costs import RowCosts, free_rows, limit_costs, row_costs
from labkit.optimize.speculative.draft import NOTHING, Draft, FeatureDraft, Proposal
from labkit.optimize.speculative.head import Head, load_head, save_head
from labkit.optimize.speculative.head_draft import LearnedHead, PlainHead, fused_head, head_cost
from labkit.optimize.speculative.lookup import PromptLookup
from labkit.optimize.speculative.model_draft import (
    ModelDraft,
    agreement,
    check_tokenizers,
    keep_layers,
    least_missed,
)
from labkit.optimize.speculative.replay import replay
from labkit.optimize.speculative.request import speculate
from labkit.optimize.speculative.suffix import SuffixAutomaton, SuffixIndex

__all__ = [
    "NOTHING",
    "Acceptance",
    "Accounting",
    "Adaptive",
    "Chooser",
    "Control",
    "Draft",
    "FeatureDraft",
    "Fixed",
    "Head",
    "LearnedHead",
    "ModelDraft",
    "PlainHead",
    "PromptLookup",
    "Proposal",
    "RowCosts",
    "SuffixAutomaton",
    "SuffixIndex",
    "agreement",
    "check_tokenizers",
    "free_rows",
    "fused_head",
    "head_cost",
    "keep_layers",
    "least_missed",
    "limit_costs",
    "load_head",
    "replay",
    "row_costs",
    "save_head",
    "speculate",
]
