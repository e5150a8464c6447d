"""Planted defects in what a cut forward remembers, shares and leaves."""

from defects.defect import Defect

DEFECTS = {
    "credits-arrive-when-the-call-is-over": Defect(
        "cut/state.py",
        "if not self._gate.is_open:",
        "if False:",
        "refusals/test_module_refusals.py",
        "later_backward",
    ),
    "a-shared-graph-is-freed-too-early": Defect(
        "cut/walk.py",
        "kept[known] = kept[part] = True",
        "kept[known] = True",
        "parity/test_any_module.py",
        "overwritten_for_its_readers",
    ),
    "a-hook-on-a-parameter-hears-every-part": Defect(
        "cut/pull.py",
        "pull = _Gathering(None if parts else held) if parts or held else _accumulate",
        "pull = _accumulate",
        "parity/test_strangers.py",
        "hooks_after_accumulation_run_once and Tied and by_sites",
    ),
    "a-path-that-ends-early-is-not-noticed": Defect(
        "cut/replayed.py",
        "if self._changed or calls != len(self._plan):",
        "if self._changed:",
        "refusals/test_module_refusals.py",
        "sites_change_with_its_states and Stopping",
    ),
    "what-a-forward-keeps-is-kept-at-every-run": Defect(
        "cut/world.py",
        "        after = self._look()\n        self._put_back(self._before)\n",
        "        after = self._look()\n",
        "parity/test_any_module.py",
        "what_a_forward_keeps",
    ),
    "memory-that-others-hold-may-be-written": Defect(
        "cut/run.py",
        "_names_of_base(prediction) > _NAMES",
        "_names_of_base(prediction) > 99",
        "laws/test_random_programs.py",
        "easily_got_wrong and returns",
    ),
    "insides-are-computed-again-inside-of-what-is-computed-again": Defect(
        "cut/run.py",
        "self._inside == 1 and name is not None and self._cuts:",
        "self._inside == 1 and name is not None:",
        "laws/test_random_programs.py",
        "computed_again_as_they_were and checkpoint",
    ),
    "a-sum-is-no-site": Defect(
        "cut/run.py",
        "if self._inside or not self._joins or made.dim() == 0:",
        "if made.dim() >= 0:",
        "parity/test_any_module.py",
        "by_default_blocks_are_sites",
    ),
}
