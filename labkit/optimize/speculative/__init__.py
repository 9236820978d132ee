"""Speculative decoding: a draft proposes, one pass of the target verifies, the answer stays.

`labkit.engine` has what every draft needs: `speculate`, which is `generate` with a draft; the rules
of verification; and the control of how many tokens to draft. Here are the drafts: PromptLookup,
SuffixIndex, ModelDraft (a smaller model, or the target with layers skipped), LearnedHead (head/),
and Chooser, which takes the better of a copy and the head. costs.py measures what rows cost, and
predict.py says what a draft should gain.
"""

from labkit.engine.accounting import Accounting
from labkit.engine.control import Acceptance, Adaptive, Control, Fixed
from labkit.engine.draft import NOTHING, Draft, FeatureDraft, Proposal
from labkit.engine.row_costs import RowCosts, free_rows
from labkit.engine.speculate import speculate
from labkit.optimize.speculative.chooser import Chooser
from labkit.optimize.speculative.costs import limit_costs, row_costs
from labkit.optimize.speculative.head.draft import LearnedHead
from labkit.optimize.speculative.head.fused import fused_head
from labkit.optimize.speculative.head.measure import head_cost
from labkit.optimize.speculative.head.model import Head, load_head, save_head
from labkit.optimize.speculative.head.plain import PlainHead
from labkit.optimize.speculative.lookup import PromptLookup
from labkit.optimize.speculative.model_draft import (
    ModelDraft,
    agreement,
    check_tokenizers,
    keep_layers,
    least_missed,
)
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
    "row_costs",
    "save_head",
    "speculate",
]
